# The checks of one driver: functions, run one after the other.
#
# Owns: running them, many clients at a time, names of tables, telling what failed.
# Does not own: what is checked. The programs find the pooler by libpq's environment variables.
package Checks;

use strict;
use warnings;
use Exporter 'import';
use File::Basename 'basename';
use Data::Dumper;
use Time::HiRes 'time';

our @EXPORT = qw(CLIENTS SERVERS_MAX at_once check equal fails name run_checks);

# Processes at a time, each with a connection; the pooler has SERVERS_MAX servers for them.
use constant { CLIENTS => 8, SERVERS_MAX => 3 };

$| = 1;
my @checks;

# Adds a check; the gap says why it has to fail for now. When it does not, the mark has to go.
sub check {
    my ($title, $body, $gap) = @_;
    push @checks, [$title, $body, $gap];
}

# A name for a table that no other program uses.
sub name {
    my ($stem) = @_;
    return basename($0, '.pl') . "_$stem";
}

# Compares values, also arrays and hashes, as text.
sub equal {
    my ($found, $expected) = @_;
    local ($Data::Dumper::Indent, $Data::Dumper::Sortkeys, $Data::Dumper::Terse) = (0, 1, 1);
    local $Data::Dumper::Useqq = 1;
    my ($left, $right) = map { Dumper(as_text($_)) } $found, $expected;
    return if $left eq $right;
    die substr($left, 0, 500) . ' is not ' . substr($right, 0, 500) . ' at line ' . (caller)[2];
}

# Numbers and texts alike, however Perl keeps them.
sub as_text {
    my ($value) = @_;
    return [map { as_text($_) } @$value] if ref $value eq 'ARRAY';
    return defined $value && !ref $value ? "$value" : $value;
}

# The body has to fail with this SQLSTATE.
sub fails {
    my ($code, $body) = @_;
    my $line = (caller)[2];
    die "no error $code at line $line" if eval { $body->(); 1 };
    my $error = $@;
    my $state = ref $error ? $error->{state} : '';
    die "$state instead of $code: $error at line $line" if $state ne $code;
}

# Runs the body with a number in processes at the same time; any failure fails the check.
sub at_once {
    my ($body, $clients) = @_;
    my @children;
    for my $number (0 .. ($clients // CLIENTS) - 1) {
        my $pid = fork // die "fork: $!";
        if ($pid == 0) {
            my $is_fine = eval { $body->($number); 1 };
            print "client $number: $@\n" if !$is_fine;
            exit($is_fine ? 0 : 1);
        }
        push @children, $pid;
    }
    my $failed = grep { waitpid($_, 0); $? != 0 } @children;
    die "$failed clients failed" if $failed;
}

# Runs the checks, or those named on the command line; exits with 1 if one failed.
sub run_checks {
    my $failed = 0;
    for (@checks) {
        my ($title, $body, $gap) = @$_;
        next if @ARGV && !grep { $_ eq $title } @ARGV;
        my $start = time;
        my $is_fine = eval { $body->(); 1 };
        if ($gap && !$is_fine) {
            print "known gap $title: $gap\n";
        } elsif ($gap) {
            $failed++;
            print "FAILED $title: a known gap is closed: $gap\n";
        } elsif ($is_fine) {
            printf "passed %s %.2f s\n", $title, time - $start;
        } else {
            $failed++;
            print "FAILED $title: $@\n";
        }
    }
    printf "%d passed, %d failed\n", @checks - $failed, $failed;
    exit($failed ? 1 : 0);
}

1;

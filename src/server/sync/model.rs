//! Random conversations with a model of the server's main loop.
//!
//! **Owns:** the model, a client that keeps to the protocol, the comparison with [`Sync`].
//! **Does not own:** bytes; a message is its tag and what the server will do about it.
//! **Invariants:** the model reads what was sent at a random later time, and its replies arrive at a
//! random later time still, so every crossing of messages on the wire occurs.
//!
//! Source: PostgreSQL documentation, `protocol-flow.html`.

use std::collections::VecDeque;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::{Counts, Noted, Owner, Reply, Sync};

/// Marks a reply that the pooler is to give.
const PROMISED: u8 = b'p';

/// How a COPY from the client goes.
#[derive(Clone, Copy, Debug)]
enum CopyIn {
    /// It fails before the server reads anything of it.
    FailsUnread,
    /// It fails at this `CopyData`, counted from 1.
    FailsAt(u8),
    Works,
}

#[derive(Clone, Copy, Debug)]
enum Statement {
    CopyIn(CopyIn),
    CopyOut,
    Fails,
    Plain,
    Rows,
    /// Rows, and a portal that has more of them.
    Suspends,
}

#[derive(Debug)]
struct Message {
    tag: u8,
    is_statement: bool,
    owner: Owner,
    /// The request fails; for Query and Execute see `statements`.
    fails: bool,
    /// What a Query or Execute runs, last first.
    statements: Vec<Statement>,
    /// The pooler answers it; the real server does not get it.
    is_promised: bool,
    /// A Query of which a journal has a record.
    is_noted: bool,
}

#[derive(Debug)]
struct Copying {
    how: CopyIn,
    request: Message,
}

/// The server: what it has not read, what it is doing, what it has written.
#[derive(Debug, Default)]
struct Server {
    input: VecDeque<Message>,
    output: VecDeque<(u8, Option<Owner>)>,
    /// What has become of promised and noted requests: done, or failed or skipped.
    outcomes: VecDeque<bool>,
    copying: Option<Copying>,
    skips_to_sync: bool,
    /// Extended messages were read since the last Sync or Query.
    is_unsynced: bool,
}

impl Server {
    /// Idle after `ReadyForQuery`, with nothing under way in either direction. Remains of COPY data
    /// and Flush do not count: they have no effect.
    fn is_idle(&self) -> bool {
        self.input
            .iter()
            .all(|message| matches!(message.tag, b'd' | b'c' | b'f' | b'H'))
            && self.output.is_empty()
            && self.copying.is_none()
            && !self.skips_to_sync
            && !self.is_unsynced
    }

    fn write(&mut self, tags: &[u8], owner: Owner) {
        self.output
            .extend(tags.iter().map(|tag| (*tag, Some(owner))));
    }

    fn fail(&mut self, request: &Message) {
        self.write(b"E", request.owner);
        if matches!(request.tag, b'Q' | b'F' | b'S') {
            self.outcomes.extend(request.is_noted.then_some(false));
            self.write(b"Z", request.owner);
        } else {
            self.skips_to_sync = true;
        }
    }

    fn read_one(&mut self) {
        let Some(message) = self.input.pop_front() else {
            return;
        };
        if let Some(copying) = self.copying.take() {
            return self.read_in_copy(copying, &message);
        }
        if self.skips_to_sync && message.tag != b'S' {
            let is_told = message.is_promised || message.is_noted;
            self.outcomes.extend(is_told.then_some(false));
            return;
        }
        self.outcomes.extend(message.is_promised.then_some(true));
        let owner = message.owner;
        // Sync fails when it cannot commit, so there must be something to commit.
        let has_failed =
            message.fails && (message.tag != b'S' || self.is_unsynced && !self.skips_to_sync);
        match message.tag {
            b'd' | b'c' | b'f' | b'H' => return,
            b'Q' | b'F' | b'S' => self.is_unsynced = false,
            _ => self.is_unsynced = true,
        }
        self.skips_to_sync = false;
        match message.tag {
            _ if has_failed => self.fail(&message),
            b'Q' if message.statements.is_empty() => {
                self.outcomes.extend(message.is_noted.then_some(true));
                self.write(b"IZ", owner);
            }
            b'E' if message.statements.is_empty() => self.write(b"I", owner),
            b'Q' | b'E' => self.run(message),
            b'S' => self.write(b"Z", owner),
            b'F' => self.write(b"VZ", owner),
            b'P' if message.is_promised => self.write(&[PROMISED], owner),
            b'P' => self.write(b"1", owner),
            b'B' => self.write(b"2", owner),
            b'C' => self.write(b"3", owner),
            b'D' if message.is_statement => self.write(b"tT", owner),
            b'D' => self.write(b"n", owner),
            tag => panic!("the model has no '{}'", tag as char),
        }
    }

    fn read_in_copy(&mut self, Copying { how, request }: Copying, message: &Message) {
        let how = match (message.tag, how) {
            (b'd', CopyIn::FailsAt(1)) | (b'f', _) => return self.fail(&request),
            (b'd', CopyIn::FailsAt(left)) => CopyIn::FailsAt(left - 1),
            (b'c', _) => {
                self.write(b"C", request.owner);
                return self.run(request);
            }
            (b'd' | b'S' | b'H', how) => how,
            (tag, _) => panic!("'{}' in mid COPY", tag as char),
        };
        self.copying = Some(Copying { how, request });
    }

    /// Runs the statements of a Query or Execute that are left.
    fn run(&mut self, mut request: Message) {
        let (owner, is_query) = (request.owner, request.tag == b'Q');
        while let Some(statement) = request.statements.pop() {
            let replies: &[u8] = match statement {
                Statement::CopyIn(how) => {
                    self.write(b"G", owner);
                    if matches!(how, CopyIn::FailsUnread) {
                        return self.fail(&request);
                    }
                    self.copying = Some(Copying { how, request });
                    return;
                }
                Statement::Fails => {
                    self.write(if is_query { b"TD" } else { b"D" }, owner);
                    return self.fail(&request);
                }
                Statement::CopyOut => b"HddcC",
                Statement::Plain => b"C",
                Statement::Suspends if !is_query => b"Ds",
                Statement::Rows | Statement::Suspends if is_query => b"TDDC",
                Statement::Rows | Statement::Suspends => b"DDC",
            };
            self.write(replies, owner);
        }
        if is_query {
            self.outcomes.extend(request.is_noted.then_some(true));
            self.write(b"Z", owner);
        }
    }
}

/// What the client has begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Client {
    /// It may send anything.
    Free,
    /// It may only send Sync: it has lost a COPY, or has sent a Sync into one.
    MustSync,
    /// It waits for the server to ask for COPY data. `synced`: a Sync is on its way already.
    Awaiting { extended: bool, synced: bool },
    /// It sends COPY data.
    Copying { extended: bool, synced: bool },
}

struct Conversation {
    rng: StdRng,
    server: Server,
    sync: Sync,
    client: Client,
    /// Whether this client ever sends Sync into a COPY.
    syncs_in_copy: bool,
    /// What the queue has told of promised requests and the server not yet.
    told: VecDeque<bool>,
    log: String,
}

impl Conversation {
    fn chance(&mut self, percent: u32) -> bool {
        self.rng.random_ratio(percent, 100)
    }

    fn send_as(&mut self, owner: Owner, tag: u8, statements: Vec<Statement>) {
        self.log
            .push(if owner == Owner::Pooler { '!' } else { '>' });
        self.log.push(tag as char);
        let is_statement = tag == b'D' && self.chance(50);
        let fails = !matches!(tag, b'Q' | b'E') && self.chance(8);
        let is_noted = tag == b'Q' && !self.sync.ignores_requests() && self.chance(50);
        let noted = if is_noted {
            Noted::BY_CLIENT
        } else {
            Noted::BY_NOBODY
        };
        self.sync.sent_noted(tag, is_statement, owner, noted);
        let message = Message {
            tag,
            is_statement,
            owner,
            fails,
            statements,
            is_promised: false,
            is_noted,
        };
        self.server.input.push_back(message);
    }

    /// A Parse that the pooler answers, unless the server would not look at it.
    fn promise(&mut self) {
        // Doubt may also come later, and then costs the connection.
        if self.sync.ignores_requests() || !self.sync.may_promise() || self.syncs_in_copy {
            return;
        }
        self.log.push_str(">p");
        self.sync.promised(b'P', Noted::BY_CLIENT);
        self.server.input.push_back(Message {
            tag: b'P',
            is_statement: false,
            owner: Owner::Client,
            fails: false,
            statements: Vec::new(),
            is_promised: true,
            is_noted: false,
        });
    }

    fn send(&mut self, tags: &[u8]) {
        for tag in tags {
            self.send_as(Owner::Client, *tag, Vec::new());
        }
    }

    fn copy_in(&mut self) -> Statement {
        Statement::CopyIn(match self.rng.random_range(0..6) {
            0 => CopyIn::FailsUnread,
            1 | 2 => CopyIn::FailsAt(self.rng.random_range(1..4)),
            _ => CopyIn::Works,
        })
    }

    fn statements(&mut self, most: usize) -> Vec<Statement> {
        let count = self.rng.random_range(0..=most);
        let mut statements = Vec::new();
        for _ in 0..count {
            statements.push(match self.rng.random_range(0..10) {
                0..3 => self.copy_in(),
                3 => Statement::CopyOut,
                4 => Statement::Fails,
                5 => Statement::Suspends,
                6 | 7 => Statement::Plain,
                _ => Statement::Rows,
            });
        }
        statements
    }

    /// Sends a Query or Execute and at once the data of every COPY in it.
    fn send_with_data(&mut self, tag: u8, most: usize) {
        let statements = self.statements(most);
        let copies = statements
            .iter()
            .filter(|one| matches!(one, Statement::CopyIn(_)))
            .count();
        self.send_as(Owner::Client, tag, statements);
        for copy in 0..copies {
            // Into the last COPY only: a Sync that is answered after all must not end a Query.
            if self.syncs_in_copy && copy + 1 == copies && self.chance(40) {
                self.send(b"S");
                self.client = Client::MustSync;
            }
            for _ in 0..self.rng.random_range(0..4) {
                self.send(b"d");
            }
            let end = if self.chance(75) { b"c" } else { b"f" };
            self.send(end);
        }
    }

    fn begin_copy_and_wait(&mut self) {
        let statement = self.copy_in();
        let extended = self.chance(50);
        if extended {
            self.send(b"PB");
        }
        self.send_as(
            Owner::Client,
            if extended { b'E' } else { b'Q' },
            vec![statement],
        );
        let synced = extended && self.syncs_in_copy && self.chance(60);
        self.send(if synced { b"S" } else { b"H" });
        self.client = Client::Awaiting { extended, synced };
    }

    fn client_step(&mut self) {
        match self.client {
            Client::Awaiting { .. } => {}
            Client::MustSync => {
                self.send(b"S");
                self.client = Client::Free;
            }
            Client::Copying { extended, synced } => match self.rng.random_range(0..8) {
                0..4 => self.send(b"d"),
                4 => self.send(b"H"),
                5 if self.syncs_in_copy => {
                    self.send(b"S");
                    self.client = Client::Copying {
                        extended,
                        synced: true,
                    };
                }
                choice => {
                    self.send(if choice == 7 { b"f" } else { b"c" });
                    self.client = if synced {
                        Client::MustSync
                    } else {
                        Client::Free
                    };
                }
            },
            Client::Free => self.request(),
        }
    }

    fn request(&mut self) {
        match self.rng.random_range(0..24) {
            0..3 => self.send_with_data(b'Q', 3),
            3..6 => self.send_with_data(b'E', 1),
            6 => self.send(b"P"),
            7 => self.promise(),
            8..10 => self.send(b"B"),
            10..12 => self.send(b"D"),
            12 => self.send(b"C"),
            13 => self.send(b"H"),
            14 => self.send(b"F"),
            15 => self.send(b"c"),
            16 => self.send_as(Owner::Pooler, b'P', Vec::new()),
            17 | 18 if self.sync.is_settled() => {
                let statements = vec![Statement::Plain; self.rng.random_range(1..3)];
                self.send_as(Owner::Pooler, b'Q', statements);
            }
            19 | 20 if self.server.is_idle() => self.begin_copy_and_wait(),
            _ => self.send(b"S"),
        }
    }

    fn deliver_one(&mut self) {
        if self.chance(5) {
            let unasked = [b'N', b'A', b'S'][self.rng.random_range(0..3)];
            self.server.output.push_front((unasked, None));
        }
        let Some((tag, owner)) = self.server.output.pop_front() else {
            return;
        };
        self.log.push('<');
        self.log.push(tag as char);
        let promised = owner.and_then(|_| self.sync.take_promised());
        assert_eq!(promised.is_some(), tag == PROMISED, "{}", self.log);
        if promised.is_some() {
            return self.check_outcomes();
        }
        let expected = owner.map_or(Reply::Unasked, Reply::Of);
        assert_eq!(self.sync.received(tag), expected, "{}", self.log);
        self.check_outcomes();
        self.client = match (self.client, tag) {
            (Client::Awaiting { extended, synced }, b'G') => Client::Copying { extended, synced },
            // A Sync sent before the COPY began is read as such.
            (
                Client::Awaiting {
                    extended: true,
                    synced: false,
                }
                | Client::Copying { extended: true, .. },
                b'E',
            ) => {
                if self.rng.random_ratio(1, 2) {
                    self.send(b"dc");
                }
                Client::MustSync
            }
            (Client::Awaiting { .. } | Client::Copying { .. }, b'E') => Client::Free,
            (client, _) => client,
        };
    }

    fn check_outcomes(&mut self) {
        let tally = self.sync.take_outcomes().unwrap_or_default().client;
        self.told.extend((0..tally.done).map(|_| true));
        self.told.extend((0..tally.failed).map(|_| false));
        // What is skipped may be known before the server has read it.
        while let (Some(told), Some(is_done)) = (self.told.front(), self.server.outcomes.front()) {
            assert_eq!(told, is_done, "{}", self.log);
            self.told.pop_front();
            self.server.outcomes.pop_front();
        }
    }

    fn check(&self) {
        let (idle, settled) = (self.server.is_idle(), self.sync.is_settled());
        let in_doubt = self.sync.doubted > 0;
        assert!(!self.sync.is_out_of_step(), "{}", self.log);
        let mut counts = Counts::default();
        for owed in &self.sync.owed {
            counts.add(owed.request);
        }
        assert_eq!(counts, self.sync.counts, "{}", self.log);
        assert!(self.syncs_in_copy || !in_doubt, "{}", self.log);
        assert_eq!(
            settled,
            idle && !in_doubt,
            "{:?} {:?} {}",
            self.server,
            self.sync,
            self.log
        );
    }

    fn run(&mut self, steps: usize) {
        for _ in 0..steps {
            match self.rng.random_range(0..5) {
                0 => self.client_step(),
                1 | 2 => self.server.read_one(),
                _ => self.deliver_one(),
            }
            self.check();
        }
        self.finish();
    }

    /// Lets the client end what it has begun, and everything arrive.
    fn finish(&mut self) {
        for round in 0.. {
            while !(self.server.input.is_empty() && self.server.output.is_empty()) {
                self.server.read_one();
                self.deliver_one();
                self.check();
            }
            match self.client {
                Client::Free if round > 0 && self.server.is_idle() => break,
                Client::Free => self.send(b"S"),
                _ => self.client_step(),
            }
        }
        self.send_as(Owner::Client, b'Q', vec![Statement::Rows]);
        while !(self.server.input.is_empty() && self.server.output.is_empty()) {
            self.server.read_one();
            self.deliver_one();
            self.check();
        }
        assert!(
            self.sync.is_settled(),
            "no doubt outlasts a Query: {}",
            self.log
        );
    }
}

#[test]
fn random_conversations_never_get_out_of_step_and_settle_when_the_server_is_idle() {
    /// Tells the seed of a conversation that fails.
    struct Seed(u64);
    impl Drop for Seed {
        fn drop(&mut self) {
            if std::thread::panicking() {
                eprintln!("seed={}", self.0);
            }
        }
    }
    let first: u64 = rand::random();
    for seed in (0..3000).map(|offset| first.wrapping_add(offset)) {
        let _seed = Seed(seed);
        let mut rng = StdRng::seed_from_u64(seed);
        let (syncs_in_copy, steps) = (rng.random(), rng.random_range(1..300));
        let mut conversation = Conversation {
            rng,
            server: Server::default(),
            sync: Sync::default(),
            client: Client::Free,
            syncs_in_copy,
            told: VecDeque::new(),
            log: String::new(),
        };
        conversation.run(steps);
    }
}

// pgjdbc over TLS: a short login and a query in every mode.
//
// Owns: what each mode must do against a pooler that wants TLS. With the argument `bound`, the modes of
// pgjdbc 42.7, which can bind SCRAM to the connection.
// Does not own: where the pooler is (PGHOST and the like); DOORMAN_CA and DOORMAN_OTHER_CA are the authority
// of its certificate and another one.
//
// Source: jdbc.postgresql.org/documentation/ssl.

import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.util.Properties;

public final class Tls {
    private static final String CA = System.getenv("DOORMAN_CA");
    private static final String OTHER = System.getenv("DOORMAN_OTHER_CA");

    private static int ask(String mode, String authority, String binding) throws SQLException {
        String url = "jdbc:postgresql://" + System.getenv("PGHOST") + ":" + System.getenv("PGPORT")
            + "/" + System.getenv("PGDATABASE");
        Properties settings = new Properties();
        settings.setProperty("user", System.getenv("PGUSER"));
        settings.setProperty("password", System.getenv("PGPASSWORD"));
        settings.setProperty("gssEncMode", "disable");
        settings.setProperty("sslmode", mode);
        if (binding != null) {
            settings.setProperty("channelBinding", binding);
        }
        if (authority != null) {
            settings.setProperty("sslrootcert", authority);
        }
        try (Connection connection = DriverManager.getConnection(url, settings);
                PreparedStatement statement = connection.prepareStatement("select ?::int")) {
            statement.setInt(1, 42);
            try (ResultSet rows = statement.executeQuery()) {
                rows.next();
                return rows.getInt(1);
            }
        }
    }

    private static void check(String mode, String authority, boolean must) {
        check(mode, authority, null, must);
    }

    private static void check(String mode, String authority, String binding, boolean must) {
        String name = mode + " " + authority + " " + binding;
        int value;
        try {
            value = ask(mode, authority, binding);
        } catch (SQLException refusal) {
            if (must) {
                throw new IllegalStateException(name, refusal);
            }
            System.out.println(name + ": refused as it must be");
            return;
        }
        if (!must || value != 42) {
            throw new IllegalStateException(name + ": " + value);
        }
        System.out.println(name + ": served");
    }

    public static void main(String[] arguments) {
        if (arguments.length > 0 && arguments[0].equals("bound")) {
            check("require", null, "require", true);
            check("verify-full", CA, "require", true);
            check("verify-full", CA, "prefer", true);
            check("verify-full", CA, "disable", true);
        }
        check("disable", null, false);
        check("allow", null, true);
        check("prefer", null, true);
        check("require", null, true);
        check("verify-ca", CA, true);
        check("verify-ca", OTHER, false);
        check("verify-full", CA, true);
        check("verify-full", OTHER, false);
    }
}

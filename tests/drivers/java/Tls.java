// pgjdbc over TLS: a short login and a query in every mode.
//
// Owns: what each mode must do against a pooler that wants TLS.
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

    private static int ask(String mode, String authority) throws SQLException {
        String url = "jdbc:postgresql://" + System.getenv("PGHOST") + ":" + System.getenv("PGPORT")
            + "/" + System.getenv("PGDATABASE");
        Properties settings = new Properties();
        settings.setProperty("user", System.getenv("PGUSER"));
        settings.setProperty("password", System.getenv("PGPASSWORD"));
        settings.setProperty("gssEncMode", "disable");
        settings.setProperty("sslmode", mode);
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
        int value;
        try {
            value = ask(mode, authority);
        } catch (SQLException refusal) {
            if (must) {
                throw new IllegalStateException(mode + " " + authority, refusal);
            }
            System.out.println(mode + " " + authority + ": refused as it must be");
            return;
        }
        if (!must || value != 42) {
            throw new IllegalStateException(mode + " " + authority + ": " + value);
        }
        System.out.println(mode + " " + authority + ": served");
    }

    public static void main(String[] arguments) {
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

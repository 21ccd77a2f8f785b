//! How connections are made, and that no secret leaves them.

use dpone_tests::{Pg, Project, environment};

const SECRET: &str = "canary-5f3b1d";

fn definition(options: &str) -> String {
    format!(
        "CREATE CONNECTION shop TYPE postgres OPTIONS ({options});\n\
         CREATE CONNECTION lake TYPE delta OPTIONS ('path' 'lake');\n\
         CREATE PIPELINE one INTO lake.landing.one STRATEGY full_refresh AS SELECT * FROM shop.pg_catalog.pg_am;\n"
    )
}

fn project(url: &str, options: &str) -> Project {
    let project = Project::new().env("SHOP_URL", url);
    project.write("load.sql", definition(&format!("'url' 'env:SHOP_URL'{options}")));
    project
}

fn tls_project(options: &str) -> Project {
    project(&environment("DPONE_TEST_POSTGRES_TLS_URL"), options)
}

#[test]
fn a_server_with_tls_is_verified_against_the_given_authority() {
    let authority = environment("DPONE_TEST_POSTGRES_TLS_CA");
    let verified = tls_project(&format!(", 'sslmode' 'verify-full', 'sslrootcert' '{authority}'"));
    verified.dpone(&["connections", "test", "shop", "--file", "load.sql"]).ok();
    verified.run("load.sql", "one").ok();
    tls_project(", 'sslmode' 'require'").run("load.sql", "one").ok();

    let unknown_authority = tls_project(", 'sslmode' 'verify-full'").run("load.sql", "one").says("certificate");
    assert_ne!(unknown_authority.code(), Some(0));
    let by_address = environment("DPONE_TEST_POSTGRES_TLS_URL").replace("@localhost:", "@127.0.0.2:");
    let wrong_host = project(&by_address, &format!(", 'sslmode' 'verify-full', 'sslrootcert' '{authority}'"));
    assert_ne!(wrong_host.run("load.sql", "one").code(), Some(0), "the certificate is not for this address");
    let plain = tls_project(", 'sslmode' 'disable'").run("load.sql", "one");
    assert_eq!(plain.code(), Some(1), "the server takes no plain connection: {}", plain.text());
}

#[test]
fn a_unix_socket_is_a_host() {
    let directory = environment("DPONE_TEST_POSTGRES_SOCKET_DIR");
    let url = environment("DPONE_TEST_POSTGRES_URL");
    let port = url.split(['/', '?', ':']).find(|part| part.parse::<u16>().is_ok()).unwrap().to_owned();
    let project = Project::new();
    project.write(
        "load.sql",
        definition(&format!("'host' '{directory}', 'port' '{port}', 'username' 'postgres', 'database' 'postgres'")),
    );
    project.run("load.sql", "one").ok();
}

#[test]
fn a_wrong_password_is_an_authorization_error() {
    let url = environment("DPONE_TEST_POSTGRES_TLS_URL");
    let (start, end) = (url.rfind(':').map(|_| url.find("postgres:").unwrap()).unwrap(), url.find('@').unwrap());
    let wrong = format!("{}postgres:{SECRET}{}", &url[..start.max("postgres://".len())], &url[end..]);
    let outcome = project(&wrong, ", 'sslmode' 'require'").run("load.sql", "one").failed("authorization");
    assert!(!outcome.text().contains(SECRET), "{}", outcome.text());
}

#[test]
fn no_output_of_any_command_carries_a_secret() {
    let pg = Pg::new();
    pg.execute("CREATE SCHEMA shop; CREATE TABLE shop.t (id int PRIMARY KEY, v text)");
    pg.execute(&format!("INSERT INTO shop.t VALUES (1, '{SECRET}')"));
    // Trust authentication: the server takes any password.
    let url = pg.url().replacen("postgres@", &format!("postgres:{SECRET}@"), 1);
    let project = Project::new().env("DPONE_CONN_DB_URL", url.clone()).env("SHOP_URL", url);
    project.write(
        "load.yaml",
        "name: secretive\nsource: {type: postgres, connection_type: env, connection_id: DB, table: {schema: shop, name: t}}\n\
         sink: {type: postgres, connection_type: env, connection_id: DB, table: {schema: landing, name: t}, \
         strategy: {mode: incremental_merge, unique_key: [id]}}\n",
    );
    project.write(
        "inline.sql",
        definition(&format!("'host' '127.0.0.1', 'port' '1', 'username' 'u', 'password' '{SECRET}'")),
    );
    // A value that does not fit its target: the server's own message would quote it.
    project.write(
        "cast.sql",
        "CREATE CONNECTION db TYPE postgres OPTIONS ('url' 'env:SHOP_URL');\n\
         CREATE PIPELINE cast INTO db.landing.cast STRATEGY full_refresh AS SELECT CAST(v AS bigint) AS v FROM db.shop.t;\n",
    );
    let commands: &[&[&str]] = &[
        &["check", "load.yaml"],
        &["plan", "load.yaml", "--format", "json"],
        &["run", "load.yaml", "--run-id", "one", "-vvv", "--format", "json"],
        &["run", "load.yaml", "--run-id", "two", "-vvv", "--log-format", "json"],
        &["manifest", "render", "load.yaml"],
        &["connections", "list", "--file", "inline.sql"],
        &["connections", "test", "--file", "inline.sql"],
        &["run", "inline.sql", "-vvv"],
        &["plan", "inline.sql"],
        &["run", "cast.sql", "-vvv", "--format", "json"],
        &["state", "inspect", "load.yaml"],
    ];
    for command in commands {
        let outcome = project.dpone(command);
        assert!(!outcome.stderr().contains("Usage:"), "the command exists: {}", outcome.text());
        assert!(!outcome.text().contains(SECRET), "{}", outcome.text());
    }
    assert_eq!(pg.count("landing.t"), 1, "the commands did run");
}

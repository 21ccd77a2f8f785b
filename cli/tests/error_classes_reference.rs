//! `docs/reference/error-classes.md` is written from the connectors' tables: this test keeps it current.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fmt::Write;

use dpone_engine::{Connector, ErrorClassifier, ErrorKind};

const CLASSES: [ErrorKind; 6] = [
    ErrorKind::Transient,
    ErrorKind::Authorization,
    ErrorKind::DataQuality,
    ErrorKind::Configuration,
    ErrorKind::Conflict,
    ErrorKind::Unknown,
];

fn classifiers() -> Vec<&'static ErrorClassifier> {
    let connectors: [&dyn Connector; 4] = [
        &dpone_postgres::PostgresConnector,
        &dpone_clickhouse::ClickHouseConnector,
        &dpone_delta::DeltaConnector,
        &dpone_files::FilesConnector,
    ];
    connectors.iter().map(|connector| connector.errors().unwrap_or_else(|| panic!("{connector:?}"))).collect()
}

#[test]
fn the_reference_of_error_classes_is_current() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/reference/error-classes.md");
    let page = page();
    if std::env::var_os("DPONE_UPDATE_DOCS").is_some() {
        std::fs::write(path, &page).unwrap();
    }
    let written = std::fs::read_to_string(path).unwrap_or_default();
    assert!(written == page, "docs/reference/error-classes.md is out of date: run this test with DPONE_UPDATE_DOCS=1");
}

/// A code stands in one rule, and gets the class of that rule.
#[test]
fn no_two_rules_of_a_system_name_one_code() {
    for classifier in classifiers() {
        let mut seen = std::collections::BTreeSet::new();
        for rule in classifier.rules {
            assert!(CLASSES.contains(&rule.class) && !rule.codes.is_empty() && !rule.means.is_empty(), "{rule:?}");
            for code in rule.codes {
                assert!(seen.insert(*code), "{} of {}", code, classifier.system);
                assert_eq!(classifier.classify(&code.replace('*', "~")), rule.class, "{code} of {}", classifier.system);
            }
        }
    }
}

fn page() -> String {
    let mut out = String::from(
        "# Error classes\n\n\
         <!-- Written by a test from the connectors' tables: DPONE_UPDATE_DOCS=1 cargo test -p dpone-cli --test error_classes_reference -->\n\n\
         Every error of a system has a class by the system's own code. [Alerting on runs](../guides/alerting.md) says what each\n\
         class asks for; only `transient` errors are tried again. `*` stands for whatever follows: a rule for a whole code wins\n\
         over that for its beginning.\n\n\
         Errors that no system makes have a class too. A connection that is refused, broken or silent is `transient`. A host\n\
         that is not known, TLS that fails, and an option or a query that is wrong are `configuration`. A value that does not\n\
         fit, and a row that a check of the definition stops, is `data_quality`. A lease that another run holds, and a target\n\
         that changed meanwhile, is `conflict`. More memory than `--memory-limit` is `configuration`.\n",
    );
    for classifier in classifiers() {
        writeln!(
            out,
            "\n## {}\n\nBy {}.\n\n| class | codes | means |\n|---|---|---|",
            classifier.system, classifier.codes
        )
        .unwrap();
        for class in CLASSES {
            for rule in classifier.rules.iter().filter(|rule| rule.class == class) {
                let codes: Vec<String> = rule.codes.iter().map(|code| format!("`{code}`")).collect();
                writeln!(out, "| `{}` | {} | {} |", class.as_str(), codes.join(", "), rule.means).unwrap();
            }
        }
        writeln!(out, "\nEverything else is `{}`.", classifier.otherwise.as_str()).unwrap();
    }
    out
}

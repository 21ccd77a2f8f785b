//! `docs/reference/cli.md` is written from the arguments: this test keeps it current.
//! `DPONE_UPDATE_DOCS=1 cargo test -p dpone-cli --test reference` writes it.

#![allow(clippy::unwrap_used, clippy::panic)]

use clap_markdown::{MarkdownOptions, help_markdown_command_custom};

#[test]
fn the_reference_page_is_current() {
    let options = MarkdownOptions::new().title("Command line".to_owned()).show_footer(false);
    let page = help_markdown_command_custom(&dpone_cli::command(), &options);
    let page = format!("{}\n", page.trim_end());
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/reference/cli.md");
    if std::env::var_os("DPONE_UPDATE_DOCS").is_some() {
        std::fs::write(path, &page).unwrap();
    }
    let written = std::fs::read_to_string(path).unwrap_or_default();
    assert!(written == page, "docs/reference/cli.md is out of date: run this test with DPONE_UPDATE_DOCS=1");
}

//! `dpone init`: a project to start from, which runs as it is.

use std::path::{Path, PathBuf};

use clap::Args;
use dpone_engine::{Error, Result};
use serde_json::json;

use crate::args::{Format, OutputArgs};
use crate::exit::Exit;
use crate::output;
use crate::render::table::escape;

/// Write a small project that runs as it is, and explains itself.
///
/// It loads a CSV file into a Delta table beside it. No file that is there already is overwritten.
#[derive(Debug, Args)]
pub(crate) struct InitArgs {
    /// The folder; it is made when it is missing
    #[arg(value_name = "DIR", default_value = ".")]
    dir: PathBuf,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

const FILES: [(&str, &str); 3] = [
    ("dpone.sql", include_str!("../starter/dpone.sql")),
    ("data/orders.csv", include_str!("../starter/data/orders.csv")),
    (".gitignore", include_str!("../starter/gitignore")),
];

pub(crate) fn init(args: &InitArgs) -> Result<Exit> {
    if let Some((name, _)) = FILES.iter().find(|(name, _)| args.dir.join(name).exists()) {
        return Err(Error::configuration(format!("{} is there already", args.dir.join(name).display()))
            .with_hint("choose another folder: dpone init my_project"));
    }
    let mut written = Vec::new();
    for (name, content) in FILES {
        let path = args.dir.join(name);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(|e| cannot_write(parent, &e))?;
        }
        std::fs::write(&path, content).map_err(|e| cannot_write(&path, &e))?;
        written.push(path.display().to_string());
    }
    report(&args.dir, &written, args.output.format)?;
    Ok(Exit::Done)
}

/// What is there now, and what to do with it.
fn report(dir: &Path, written: &[String], format: Format) -> Result<()> {
    let mut next = vec!["dpone check".to_owned(), "dpone run".to_owned(), QUERY.to_owned()];
    if dir != Path::new(".") {
        next.insert(0, format!("cd {}", dir.display()));
    }
    match format {
        Format::Json => output::print_json(&json!({ "written": written, "next": next })),
        Format::Text => {
            let written: String = written.iter().map(|path| format!("wrote {path}\n")).collect();
            output::print(&format!("{written}\nnext:\n  {}", next.join("\n  ")))
        }
        Format::Md => {
            let written: String = written.iter().map(|path| format!("- {}\n", escape(path))).collect();
            output::print(&format!("Written:\n\n{written}\nNext:\n\n```sh\n{}\n```\n", next.join("\n")))
        }
    }
}

const QUERY: &str = "dpone query \"SELECT * FROM lake.landing.orders\"";

fn cannot_write(path: &Path, error: &std::io::Error) -> Error {
    Error::configuration(format!("cannot write {}: {error}", path.display()))
}

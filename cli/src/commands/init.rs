//! `dpone init`: a project to start from, which runs as it is.

use std::path::{Path, PathBuf};

use clap::Args;
use dpone_engine::{Error, Result};

use crate::exit::Exit;
use crate::output;

/// Write a small project that runs as it is, and explains itself.
///
/// It loads a CSV file into a Delta table beside it. No file that is there already is overwritten.
#[derive(Debug, Args)]
pub(crate) struct InitArgs {
    /// The folder; it is made when it is missing
    #[arg(value_name = "DIR", default_value = ".")]
    dir: PathBuf,
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
    for (name, content) in FILES {
        let path = args.dir.join(name);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(|e| cannot_write(parent, &e))?;
        }
        std::fs::write(&path, content).map_err(|e| cannot_write(&path, &e))?;
        output::print(&format!("wrote {}", path.display()))?;
    }
    let enter = if args.dir == Path::new(".") { String::new() } else { format!("cd {}\n  ", args.dir.display()) };
    output::print(&format!(
        "\nnext:\n  {enter}dpone check\n  dpone run\n  dpone query \"SELECT * FROM lake.landing.orders\""
    ))?;
    Ok(Exit::Done)
}

fn cannot_write(path: &Path, error: &std::io::Error) -> Error {
    Error::configuration(format!("cannot write {}: {error}", path.display()))
}

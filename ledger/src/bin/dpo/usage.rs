//! What the argument parser has to say, in one line, and without the connection string.

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use clap::error::ErrorKind;

pub(crate) fn explain(error: &clap::Error, given: &[OsString]) -> ExitCode {
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        let _ = write!(std::io::stdout().lock(), "{}", error.render());
        return ExitCode::SUCCESS;
    }
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        crate::say("a db-connection-string and a command are expected; see dpo --help");
        return ExitCode::from(2);
    }
    crate::say(&format!("{}; see dpo --help", one_line(&error.render().to_string(), given)));
    ExitCode::from(2)
}

/// The message up to the usage. Of an argument that is a URL, which may hold a password, the scheme alone is left.
fn one_line(text: &str, given: &[OsString]) -> String {
    let message = text.split("\n\nUsage:").next().unwrap_or_default();
    let message = message.split("\n\nFor more information").next().unwrap_or_default();
    let mut line = message.trim_start_matches("error:").split_whitespace().collect::<Vec<_>>().join(" ");
    for argument in given {
        let argument = argument.to_string_lossy();
        if let Some((scheme, _)) = argument.split_once("://") {
            let squeezed = argument.split_whitespace().collect::<Vec<_>>().join(" ");
            line = line.replace(&squeezed, &format!("{scheme}://***"));
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_cut_after_its_scheme() {
        let url = "postgresql://me:hunter2@h/d";
        let text = format!("error: unrecognized subcommand '{url}'\n\nUsage: dpo …\n\nFor more information, …");
        assert_eq!(one_line(&text, &[url.into()]), "unrecognized subcommand 'postgresql://***'");
    }
}

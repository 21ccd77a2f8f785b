//! The guide's commands, as a reader types them.

use std::process::Command;

#[test]
fn the_guide_does_what_it_says() {
    let guide = include_str!("../../../docs/guides/rerun-only-what-changed-dpo.md");
    let blocks = |kind: &str| {
        let fence = format!("```{kind}\n");
        guide.split(&fence).skip(1).map(|rest| rest.split("\n```").next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let folder = tempfile::tempdir().unwrap();
    let programs = std::path::Path::new(env!("CARGO_BIN_EXE_dpo")).parent().unwrap();
    let path = std::env::join_paths([programs, "/usr/bin".as_ref(), "/bin".as_ref()]).unwrap();
    let run = |script: &str| {
        let mut sh = Command::new("sh");
        let done = sh.args(["-euc", script]).current_dir(folder.path()).env("PATH", &path).output().unwrap();
        assert!(done.status.success(), "{script}: {done:?}");
        String::from_utf8(done.stdout).unwrap()
    };
    let commands = blocks("sh");
    let (last, before) = commands.split_last().unwrap();
    let printed: String = before.iter().map(|script| run(script)).collect();
    assert_eq!(printed.trim_end(), blocks("text").concat());
    chrono::DateTime::parse_from_rfc3339(run(last).trim_end()).unwrap();
}

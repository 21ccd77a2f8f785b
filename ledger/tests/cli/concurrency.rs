//! Several commands at once.

use super::support::{Database, Outcome, command, every, finish};

/// Runs the same command at the same time, so many times.
fn race(db: &Database, times: usize, arguments: &[&str]) -> Vec<Outcome> {
    let arguments = db.arguments(arguments);
    std::thread::scope(|scope| {
        let runs: Vec<_> = (0..times).map(|_| scope.spawn(|| finish(&mut command(db.path(), &arguments)))).collect();
        runs.into_iter().map(|run| run.join().unwrap()).collect()
    })
}

#[test]
fn one_of_two_executions_with_one_id_wins() {
    every(|db| {
        db.dpo(&["upgrade"]).ok();
        for round in 0..3 {
            let id = format!("00000000-0000-4000-8000-00000000000{round}");
            let (won, lost): (Vec<_>, Vec<_>) =
                race(db, 4, &["init-execution", &id]).into_iter().partition(|outcome| outcome.code == 0);
            assert_eq!(won.len(), 1, "{won:?}");
            assert_eq!(won[0].stdout, format!("{id}\n"));
            for outcome in lost {
                outcome.fails(1, &format!("{id} is already in use"));
            }
        }
        assert_eq!(db.rows("SELECT count(*) FROM dpo.execution"), ["3"]);
    });
}

#[test]
fn first_uses_at_the_same_time_make_one_schema() {
    every(|db| {
        for outcome in race(db, 6, &["init-execution"]) {
            outcome.ok();
        }
        assert_eq!(db.rows("SELECT count(*) FROM dpo.execution"), ["6"]);
        assert_eq!(db.rows("SELECT count(*) FROM dpo.schema_revision"), ["1"]);
    });
}

#[test]
fn a_step_is_completed_by_one_of_many() {
    every(|db| {
        db.write("models/a.sql", "");
        let execution = db.init_execution();
        let step = db.init_step(&execution, "LOAD");
        for target in [["complete-step", &step], ["complete-execution", &execution]] {
            let (won, lost): (Vec<_>, Vec<_>) = race(db, 4, &target).into_iter().partition(|outcome| outcome.code == 0);
            assert_eq!(won.len(), 1, "{won:?}");
            for outcome in lost {
                outcome.fails(1, "was completed already");
            }
        }
    });
}

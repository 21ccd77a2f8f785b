//! The source of a case: a table on a real server, and the same rows in memory.
//!
//! Mutations go to both. The server's rows are addressed by their exact bytes, because a case may have rows without a
//! key, and rows that are there twice.

use crate::Pg;
use crate::oracle::{Row, Shape, Value, take};

use super::{Random, values};

#[derive(Debug)]
pub struct SourceTable {
    pub shape: Shape,
    pub rows: Vec<Row>,
    /// Schema and table, quoted.
    pub name: String,
    /// Rows that were deleted, to come back.
    graveyard: Vec<Row>,
    /// The greatest position of the cursor so far.
    clock: i64,
    next_id: u64,
    freedom: Freedom,
}

/// What the generator may do.
#[derive(Debug, Clone, Copy, Default)]
pub struct Freedom {
    /// Rows with NULL or repeated keys, and rows without a cursor value, may appear.
    pub faulty_keys: bool,
    /// Keys repeat, once for each time of a row: the table is a log.
    pub log: bool,
    pub primary_key: bool,
    /// A column without empty texts: Delta takes them for NULL in the names of folders, so that a sink must refuse them.
    pub folders: Option<usize>,
    pub rows: usize,
}

impl SourceTable {
    pub fn create(pg: &Pg, name: &str, shape: &Shape, freedom: Freedom, random: &mut Random) -> Self {
        let mut columns: Vec<_> =
            shape.columns.iter().map(|c| format!("\"{}\" {}", c.name, c.source.postgres())).collect();
        if freedom.primary_key {
            columns.push(format!("PRIMARY KEY ({})", shape.key_names().join(", ")));
        }
        pg.execute(&format!("CREATE TABLE {name} ({})", columns.join(", ")));
        let mut table = Self {
            shape: shape.clone(),
            rows: Vec::new(),
            name: name.to_owned(),
            graveyard: Vec::new(),
            clock: 0,
            next_id: 1,
            freedom,
        };
        let rows: Vec<Row> = (0..freedom.rows).map(|_| table.fresh_row(random)).collect();
        table.insert(pg, &rows);
        table
    }

    /// Changes the table a little. Gives the statements that did it.
    pub fn mutate(&mut self, pg: &Pg, random: &mut Random) -> Vec<String> {
        let mut done = Vec::new();
        for _ in 0..random.below(5) {
            done.extend(self.mutate_once(pg, random));
        }
        done
    }

    fn mutate_once(&mut self, pg: &Pg, random: &mut Random) -> Option<String> {
        match random.below(100) {
            0..20 => {
                let rows: Vec<Row> = (0..=random.below(3)).map(|_| self.fresh_row(random)).collect();
                Some(self.insert(pg, &rows))
            }
            20..32 => {
                let row = self.any_row(random)?;
                Some(self.delete(pg, &row))
            }
            32..40 => self.bring_back(pg, random),
            40..48 => self.change_key(pg, random),
            48..50 => Some(self.truncate(pg)),
            50..75 if self.freedom.faulty_keys || self.freedom.log => self.add_fault(pg, random),
            _ => self.change(pg, random),
        }
    }

    fn change(&mut self, pg: &Pg, random: &mut Random) -> Option<String> {
        let old = self.any_row(random)?;
        let mut new = old.clone();
        let at = self.any_payload(random)?;
        new[at] = self.any_value(at, random);
        if random.chance(80) {
            self.touch(&mut new, random);
        }
        Some(self.update(pg, &old, new))
    }

    fn bring_back(&mut self, pg: &Pg, random: &mut Random) -> Option<String> {
        let mut row = self.graveyard.pop()?;
        if random.chance(70) {
            self.touch(&mut row, random);
        }
        let key = self.shape.key_of(&row);
        let taken =
            !key.is_empty() && !self.freedom.log && self.rows.iter().any(|other| self.shape.key_of(other) == key);
        (!taken).then(|| self.insert(pg, &[row]))
    }

    fn change_key(&mut self, pg: &Pg, random: &mut Random) -> Option<String> {
        let old = self.any_row(random)?;
        let mut new = old.clone();
        let fresh = self.fresh_row(random);
        for &i in &self.shape.key {
            new[i].clone_from(&fresh[i]);
        }
        if random.chance(50) {
            self.touch(&mut new, random);
        }
        Some(self.update(pg, &old, new))
    }

    /// A row with NULL in its key, or with the key of another.
    fn add_fault(&mut self, pg: &Pg, random: &mut Random) -> Option<String> {
        let mut row = self.any_row(random)?;
        if self.freedom.faulty_keys && random.chance(40) {
            let places = [&self.shape.key, self.shape.touched.as_slice()].concat();
            row[*random.pick(&places)] = None;
            return Some(self.insert(pg, &[row]));
        }
        if let Some(at) = self.any_payload(random) {
            row[at] = self.any_value(at, random);
        }
        if self.freedom.log || random.chance(70) {
            self.touch(&mut row, random);
        }
        Some(self.insert(pg, &[row]))
    }

    /// Removes what [`Self::add_fault`] added.
    pub fn repair(&mut self, pg: &Pg) -> Vec<String> {
        let mut seen: Vec<_> = Vec::new();
        let mut faults = Vec::new();
        for row in &self.rows {
            let mut identity = self.shape.key_of(row);
            if let Some(at) = self.shape.touched {
                if row[at].is_none() {
                    identity.push(None);
                } else if self.freedom.log {
                    identity.push(row[at].clone());
                }
            }
            if identity.contains(&None) || seen.contains(&identity) {
                faults.push(row.clone());
            }
            seen.push(identity);
        }
        let done = faults.iter().map(|row| self.delete(pg, row)).collect();
        // What never was right does not come back.
        self.graveyard.retain(|row| !faults.contains(row));
        done
    }

    fn any_row(&self, random: &mut Random) -> Option<Row> {
        (!self.rows.is_empty()).then(|| random.pick(&self.rows).clone())
    }

    /// A column that is neither key nor cursor.
    fn any_payload(&self, random: &mut Random) -> Option<usize> {
        let payload: Vec<usize> = (0..self.shape.columns.len())
            .filter(|i| !self.shape.key.contains(i) && self.shape.touched != Some(*i))
            .collect();
        (!payload.is_empty()).then(|| *random.pick(&payload))
    }

    fn any_value(&self, at: usize, random: &mut Random) -> Value {
        let value = values::any(self.shape.columns[at].source, random);
        if self.freedom.folders == Some(at) { value.filter(|text| !text.is_empty()) } else { value }
    }

    fn fresh_row(&mut self, random: &mut Random) -> Row {
        let mut row: Row = (0..self.shape.columns.len()).map(|at| self.any_value(at, random)).collect();
        // The first key column may repeat; the last one tells rows apart.
        for (n, &at) in self.shape.key.iter().enumerate() {
            let kind = self.shape.columns[at].source;
            row[at] = Some(if n + 1 == self.shape.key.len() {
                self.next_id += 1;
                values::nth_key(kind, self.next_id)
            } else {
                loop {
                    if let Some(value) = self.any_value(at, random) {
                        break value;
                    }
                }
            });
        }
        self.touch(&mut row, random);
        row
    }

    /// Moves the cursor: mostly on, often onto the newest value, sometimes behind it.
    fn touch(&mut self, row: &mut Row, random: &mut Random) {
        let Some(at) = self.shape.touched else { return };
        let n = match random.below(10) {
            0..5 => self.clock + 1 + random.below(3) as i64,
            5..8 => self.clock,
            _ => (self.clock - random.below(4) as i64).max(0),
        };
        self.clock = self.clock.max(n);
        row[at] = Some(values::cursor(self.shape.columns[at].source, n, random));
    }

    pub fn insert(&mut self, pg: &Pg, rows: &[Row]) -> String {
        if rows.is_empty() {
            return String::new();
        }
        let tuples: Vec<_> = rows.iter().map(|row| format!("({})", self.literals(row))).collect();
        self.rows.extend_from_slice(rows);
        run(pg, format!("INSERT INTO {} VALUES {}", self.name, tuples.join(", ")))
    }

    fn update(&mut self, pg: &Pg, old: &Row, new: Row) -> String {
        assert!(take(&mut self.rows, old));
        let sets: Vec<_> = (0..new.len())
            .filter(|&i| new[i] != old[i])
            .map(|i| format!("\"{}\" = {}", self.shape.columns[i].name, self.literal(&new, i)))
            .collect();
        self.rows.push(new);
        if sets.is_empty() {
            return String::new();
        }
        run(pg, format!("UPDATE {} SET {} WHERE {}", self.name, sets.join(", "), self.is_row(old)))
    }

    fn delete(&mut self, pg: &Pg, row: &Row) -> String {
        assert!(take(&mut self.rows, row));
        self.graveyard.push(row.clone());
        run(pg, format!("DELETE FROM {} WHERE {}", self.name, self.is_row(row)))
    }

    fn truncate(&mut self, pg: &Pg) -> String {
        self.graveyard.append(&mut self.rows);
        run(pg, format!("TRUNCATE {}", self.name))
    }

    /// One row with exactly these bytes: `=` would take 1.0 for 1.00, and 0 for -0.
    fn is_row(&self, row: &Row) -> String {
        let literals = self.literals(row);
        format!("ctid = (SELECT ctid FROM {0} x WHERE x *= ROW({literals})::{0} LIMIT 1)", self.name)
    }

    fn literals(&self, row: &Row) -> String {
        (0..row.len()).map(|i| self.literal(row, i)).collect::<Vec<_>>().join(", ")
    }

    fn literal(&self, row: &Row, i: usize) -> String {
        literal(row[i].as_deref(), &self.shape.columns[i].source.postgres())
    }

    /// The server has the same rows as the model: otherwise the case would prove nothing.
    pub fn check(&self, pg: &Pg) {
        let columns: Vec<_> = self.shape.columns.iter().map(|c| (c.name.clone(), c.source)).collect();
        let found = super::target::postgres_rows(pg, &self.name, &columns);
        crate::assert_same_rows("the source and its model", lines(&self.rows), lines(&found));
    }
}

fn run(pg: &Pg, sql: String) -> String {
    pg.execute(&sql);
    sql
}

fn literal(value: Option<&str>, postgres_type: &str) -> String {
    match value {
        None => format!("NULL::{postgres_type}"),
        Some(text) => format!("'{}'::{postgres_type}", text.replace('\'', "''")),
    }
}

/// Rows as lines, for messages.
pub fn lines(rows: &[Row]) -> Vec<String> {
    rows.iter()
        .map(|row| format!("{:?}", row.iter().map(|v| v.as_deref().unwrap_or("∅")).collect::<Vec<_>>()))
        .collect()
}

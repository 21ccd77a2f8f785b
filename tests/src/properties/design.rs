//! What a case is about: a table and a strategy, drawn at random within what the strategy allows.

use crate::oracle::{
    Column, FullRefresh, IncrementalAppend, IncrementalMerge, Kind, Lag, Mark, Replace, Scope, Shape, Strategy,
};

use super::{Freedom, Random, Sink, values};

#[derive(Debug)]
pub struct Design {
    pub shape: Shape,
    pub strategy: Strategy,
    pub freedom: Freedom,
    /// Somebody made the target before the first run, some of its types wider than the source's.
    pub target_made_before: bool,
    /// Partitions that are read at once.
    pub workers: usize,
}

impl Design {
    pub fn full_refresh(random: &mut Random, sink: Sink) -> Self {
        let strategy = Strategy::FullRefresh(FullRefresh {
            overwrite_type: *random.pick(&["exchange", "truncate_insert"]),
            allow_empty_source: random.chance(50),
        });
        Self::drawn(random, sink, None, true, |_, _| strategy)
    }

    pub fn replace(random: &mut Random, sink: Sink) -> Self {
        Self::drawn(random, sink, None, true, |random, shape| {
            Strategy::Replace(Replace { scope: scope(random, shape) })
        })
    }

    pub fn incremental_append(random: &mut Random, sink: Sink) -> Self {
        let only_new_rows = random.chance(30);
        let cursor = *random.pick(CURSORS);
        let lag = lag(random, cursor);
        Self::drawn(random, sink, Some(cursor), true, |_, _| {
            Strategy::IncrementalAppend(IncrementalAppend { lag, only_new_rows })
        })
    }

    pub fn incremental_merge(random: &mut Random, sink: Sink) -> Self {
        let cursor = random.chance(75).then(|| *random.pick(CURSORS));
        let lag = cursor.and_then(|cursor| lag(random, cursor));
        let mut strategy = IncrementalMerge {
            lag,
            quarantine_null_keys: random.chance(40),
            include_null_cursors: cursor.is_some() && random.chance(20),
            ..IncrementalMerge::default()
        };
        let latest = random.chance(40);
        let delete = random.chance(70);
        let marked = random.chance(40);
        Self::drawn(random, sink, cursor, true, |random, shape| {
            strategy.latest_by = shape.cursor.filter(|_| latest);
            let marks: Vec<usize> = (0..shape.columns.len())
                .filter(|i| matches!(shape.columns[*i].source, Kind::Boolean | Kind::Timestamptz))
                .filter(|i| shape.cursor != Some(*i) && !shape.key.contains(i))
                .collect();
            if marked && !marks.is_empty() {
                strategy.mark = Some(Mark { column: *random.pick(&marks), delete });
            }
            Strategy::IncrementalMerge(strategy)
        })
    }

    /// Draws a table, and the strategy for it.
    pub(super) fn drawn(
        random: &mut Random,
        sink: Sink,
        cursor: Option<Kind>,
        keyed: bool,
        strategy: impl FnOnce(&mut Random, &Shape) -> Strategy,
    ) -> Self {
        let target_made_before = sink == Sink::Postgres && random.chance(30);
        let shape = shape(random, cursor, keyed, target_made_before);
        let strategy = strategy(random, &shape);
        let faulty_keys = random.chance(35);
        let freedom = Freedom {
            faulty_keys,
            primary_key: !faulty_keys && random.chance(50),
            rows: *random.pick(&[0, 1, 5, 20, 60]),
        };
        Self { shape, strategy, freedom, target_made_before, workers: *random.pick(&[1, 1, 2, 4]) }
    }
}

const CURSORS: &[Kind] = &[
    Kind::BigInt,
    Kind::Date,
    Kind::Timestamp,
    Kind::Timestamptz,
    Kind::Decimal(20, 6),
    Kind::Double,
    Kind::Text,
    Kind::Uuid,
];

const KEYS: &[&[(&str, Kind)]] = &[
    &[("region", Kind::Text), ("id", Kind::BigInt)],
    &[("id", Kind::Int), ("region", Kind::Text)],
    &[("id", Kind::BigInt)],
    &[("id", Kind::Uuid)],
    &[("code", Kind::Text)],
    &[("day", Kind::Date), ("code", Kind::Varchar(20))],
];

const PAYLOAD: &[(&str, &[Kind])] = &[
    ("note", &[Kind::Text, Kind::Varchar(40)]),
    ("amount", &[Kind::Numeric, Kind::Decimal(12, 2)]),
    ("weight", &[Kind::Double, Kind::Real]),
    ("flag", &[Kind::Boolean]),
    ("born", &[Kind::Date]),
    ("moment", &[Kind::Timestamp, Kind::Timestamptz]),
    ("blob", &[Kind::Bytea]),
    ("doc", &[Kind::Jsonb]),
    ("count", &[Kind::SmallInt, Kind::Int, Kind::BigInt]),
    ("other", &[Kind::Uuid]),
];

fn shape(random: &mut Random, cursor: Option<Kind>, keyed: bool, widen: bool) -> Shape {
    let mut columns = Vec::new();
    let column = |random: &mut Random, name: &str, source: Kind| {
        let target = if widen && random.chance(50) { wider(source) } else { source };
        Column { name: name.to_owned(), source, target }
    };
    let key_columns = if keyed { *random.pick(KEYS) } else { &[] };
    columns.extend(key_columns.iter().map(|(name, kind)| column(random, name, *kind)));
    let key = (0..columns.len()).collect();
    let payload = 2 + random.below(3);
    let first = random.below(PAYLOAD.len());
    for n in 0..payload {
        // Steps of three visit all ten.
        let (name, kinds) = PAYLOAD[(first + n * 3) % PAYLOAD.len()];
        let kind = *random.pick(kinds);
        columns.push(column(random, name, kind));
    }
    let cursor = cursor.map(|kind| {
        columns.push(Column { name: "changed_at".to_owned(), source: kind, target: kind });
        columns.len() - 1
    });
    Shape { columns, key, cursor }
}

fn wider(kind: Kind) -> Kind {
    match kind {
        Kind::SmallInt => Kind::Int,
        Kind::Int => Kind::BigInt,
        Kind::Decimal(12, 2) => Kind::Decimal(20, 4),
        Kind::Real => Kind::Double,
        Kind::Varchar(_) => Kind::Text,
        other => other,
    }
}

fn lag(random: &mut Random, cursor: Kind) -> Option<Lag> {
    if random.chance(60) {
        return None;
    }
    match cursor {
        Kind::BigInt => Some(Lag::Number(random.below(30) as i64)),
        Kind::Date | Kind::Timestamp | Kind::Timestamptz => Some(Lag::Days(1 + random.below(3) as i64)),
        _ => None,
    }
}

fn scope(random: &mut Random, shape: &Shape) -> Scope {
    let said = |kind: Kind| matches!(kind, Kind::Text | Kind::Varchar(_) | Kind::Date | Kind::Int | Kind::BigInt);
    let columns: Vec<usize> = (0..shape.columns.len()).filter(|i| said(shape.columns[*i].source)).collect();
    let Some(&column) = columns.get(random.below(columns.len().max(1))) else {
        return Scope::IsNull { column: random.below(shape.columns.len()) };
    };
    let kind = shape.columns[column].source;
    let value = |random: &mut Random| random.pick(&values::pool(kind)).clone();
    let (mut from, mut to) = (value(random), value(random));
    if kind.compare(&from, &to).is_gt() {
        std::mem::swap(&mut from, &mut to);
    }
    match random.below(5) {
        0 => Scope::Window { column, from, to },
        1 => Scope::Between { column, from, to },
        2 => Scope::AnyOf { column, values: vec![from, to] },
        3 => Scope::Not { column, value: from },
        _ => Scope::IsNull { column },
    }
}

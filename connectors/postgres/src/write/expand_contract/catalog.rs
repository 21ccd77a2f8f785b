//! What the catalog says of a column that is migrated: what hangs on it, and how to make the same for another column.

use dpone_engine::{Error, Relation, Result};

use super::sql::Names;
use crate::client::Client;
use crate::write::names::{literal, quote, relation};

/// The table, as far as every phase asks.
#[derive(Debug, Clone)]
pub(super) struct Table {
    pub(super) oid: u32,
    pub(super) pages: i64,
}

/// Finds the table. What cannot be migrated in place is refused.
pub(super) async fn table(client: &Client, table: &Relation) -> Result<Table> {
    let row = client
        .row(
            "SELECT c.oid, c.relkind::text, pg_relation_size(c.oid) / current_setting('block_size')::bigint,
                    EXISTS (SELECT FROM pg_inherits i WHERE c.oid IN (i.inhrelid, i.inhparent)), c.reloftype <> 0
               FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relname = $2",
            &[&table.schema, &table.name],
        )
        .await?;
    let Some(row) = row else {
        return Err(Error::configuration(format!("there is no table {table}")).with("table", table.to_string()));
    };
    let kind: String = row.get(1);
    let wrong = match kind.as_str() {
        "r" if row.get(3) => Some("has parents or children"),
        "r" if row.get(4) => Some("is a table of a type"),
        "r" => None,
        "p" => Some("is partitioned"),
        _ => Some("is not a table"),
    };
    if let Some(wrong) = wrong {
        return Err(Error::configuration(format!("{table} {wrong}: its columns are not migrated in place"))
            .with_hint("run the statements of the plan by hand, partition by partition")
            .with("table", table.to_string()));
    }
    Ok(Table { oid: row.get(0), pages: row.get(2) })
}

#[derive(Debug, Clone)]
pub(super) struct Column {
    pub(super) number: i16,
    pub(super) dtype: String,
    pub(super) not_null: bool,
    pub(super) default: Option<String>,
    /// `a`, `d`, or empty.
    identity: String,
    generated: bool,
    comment: Option<String>,
    granted: bool,
}

pub(super) async fn column(client: &Client, oid: u32, name: &str) -> Result<Option<Column>> {
    let generated = if client.version() >= 120_000 { "a.attgenerated <> ''" } else { "false" };
    let sql = format!(
        "SELECT a.attnum, format_type(a.atttypid, a.atttypmod), a.attnotnull,
                CASE WHEN {generated} THEN NULL ELSE pg_get_expr(d.adbin, d.adrelid) END, a.attidentity::text,
                {generated}, col_description(a.attrelid, a.attnum), a.attacl IS NOT NULL
           FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
          WHERE a.attrelid = $1 AND a.attname = $2 AND NOT a.attisdropped AND a.attnum > 0"
    );
    Ok(client.row(&sql, &[&oid, &name]).await?.map(|row| Column {
        number: row.get(0),
        dtype: row.get(1),
        not_null: row.get(2),
        default: row.get(3),
        identity: row.get(4),
        generated: row.get(5),
        comment: row.get(6),
        granted: row.get(7),
    }))
}

/// The type as the catalog would write it.
pub(super) async fn type_name(client: &Client, name: &str) -> Result<Option<String>> {
    let row = client.row("SELECT format_type(to_regtype($1)::oid, NULL)", &[&without_modifier(name)]).await?;
    Ok(row.and_then(|row| row.get::<_, Option<String>>(0)).map(|base| with_modifier(&base, name)))
}

fn without_modifier(name: &str) -> String {
    match (name.find('('), name.find(')')) {
        (Some(from), Some(to)) if from < to && !name.contains('"') => format!("{}{}", &name[..from], &name[to + 1..]),
        _ => name.to_owned(),
    }
}

/// `timestamp with time zone` and `timestamp(3) with time zone` have it in the middle.
fn with_modifier(base: &str, name: &str) -> String {
    let (Some(from), Some(to)) = (name.find('('), name.find(')')) else { return base.to_owned() };
    if name.contains('"') || from > to {
        return name.to_owned();
    }
    let modifier = name[from..=to].replace(' ', "");
    match base.find(" with") {
        Some(at) if base.starts_with("time") => format!("{}{modifier}{}", &base[..at], &base[at..]),
        _ => match base.strip_suffix("[]") {
            Some(element) => format!("{element}{modifier}[]"),
            None => format!("{base}{modifier}"),
        },
    }
}

/// An index that has the column among its keys.
#[derive(Debug, Clone)]
pub(super) struct Index {
    pub(super) name: String,
    pub(super) parked: Relation,
    /// `CREATE INDEX CONCURRENTLY` under the parked name, over the other column.
    pub(super) create: String,
    /// The PRIMARY KEY or UNIQUE constraint that it is, with what is said of it behind `USING INDEX`.
    pub(super) constraint: Option<(&'static str, String)>,
}

/// A CHECK or a foreign key, said with the name that the column has again after the cut-over.
#[derive(Debug, Clone)]
pub(super) struct Constraint {
    pub(super) name: String,
    pub(super) definition: String,
}

/// Everything that moves from one column to the other.
#[derive(Debug, Clone)]
pub(super) struct Moves {
    pub(super) live: Column,
    pub(super) indexes: Vec<Index>,
    pub(super) constraints: Vec<Constraint>,
    /// The sequence that belongs to the column, as a quoted name.
    sequence: Option<String>,
}

/// Reads what moves, and refuses by name what cannot.
pub(super) async fn moves(
    client: &Client,
    table: &Relation,
    oid: u32,
    live: &str,
    mirror: &str,
    names: &Names,
) -> Result<Moves> {
    let Some(column) = column(client, oid, live).await? else {
        return Err(Error::conflict(format!("{table} has no column {live:?}")).with("table", table.to_string()));
    };
    let mut obstacles = obstacles(client, oid, column.number).await?;
    if column.generated {
        obstacles.push("the expression that generates it".to_owned());
    }
    if column.granted {
        obstacles.push("privileges that are granted on the column alone".to_owned());
    }
    let indexes = indexes(client, table, oid, &column, mirror, names, &mut obstacles).await?;
    if !obstacles.is_empty() {
        return Err(Error::conflict(format!(
            "column {live:?} of {table} cannot be replaced while these hang on it: {}",
            obstacles.join("; ")
        ))
        .with_hint("drop them first, and create them again on the new column after the cut-over")
        .with("column", live));
    }
    let constraints = client
        .rows(
            "SELECT conname::text, pg_get_constraintdef(oid) FROM pg_constraint
              WHERE conrelid = $1 AND contype IN ('c', 'f') AND $2 = ANY (conkey) AND conname NOT LIKE $3 ORDER BY conname",
            &[&oid, &column.number, &like(&Names::prefix())],
        )
        .await?;
    let sequence = client
        .row(
            "SELECT format('%I.%I', n.nspname, s.relname) FROM pg_depend d JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S'
               JOIN pg_namespace n ON n.oid = s.relnamespace
              WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjid = $1
                AND d.refobjsubid = $2 AND d.deptype IN ('a', 'i')",
            &[&oid, &i32::from(column.number)],
        )
        .await?;
    Ok(Moves {
        constraints: constraints
            .iter()
            .map(|row| Constraint {
                name: row.get(0),
                definition: row.get::<_, String>(1).trim_end_matches(" NOT VALID").to_owned(),
            })
            .collect(),
        live: column,
        indexes,
        sequence: sequence.map(|row| row.get(0)),
    })
}

fn like(prefix: &str) -> String {
    format!("{}%", prefix.replace('_', "\\_"))
}

/// What depends on the column and is none of what moves.
async fn obstacles(client: &Client, oid: u32, number: i16) -> Result<Vec<String>> {
    let rows = client
        .rows(
            "SELECT DISTINCT CASE WHEN d.classid = 'pg_rewrite'::regclass
                         THEN (SELECT pg_describe_object('pg_class'::regclass, r.ev_class, 0) FROM pg_rewrite r WHERE r.oid = d.objid)
                         ELSE pg_describe_object(d.classid, d.objid, d.objsubid) END
               FROM pg_depend d
               LEFT JOIN pg_class c ON d.classid = 'pg_class'::regclass AND c.oid = d.objid
               LEFT JOIN pg_constraint k ON d.classid = 'pg_constraint'::regclass AND k.oid = d.objid
               LEFT JOIN pg_attrdef f ON d.classid = 'pg_attrdef'::regclass AND f.oid = d.objid
              WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid = $1 AND d.refobjsubid = $2
                AND (c.relkind IS NULL OR c.relkind NOT IN ('i', 'S'))
                AND NOT coalesce(k.contype IN ('p', 'u', 'c', 'n') OR (k.contype = 'f' AND k.conrelid = $1 AND k.confrelid <> $1), false)
                AND NOT coalesce(f.adnum = $2::int2 AND f.adrelid = $1, false) ORDER BY 1",
            &[&oid, &i32::from(number)],
        )
        .await?;
    let mut found: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    // A foreign key that points here hangs on the index.
    let inbound = client
        .rows(
            "SELECT format('the foreign key %s of %s', conname, conrelid::regclass) FROM pg_constraint
              WHERE contype = 'f' AND confrelid = $1 AND $2 = ANY (confkey) ORDER BY 1",
            &[&oid, &number],
        )
        .await?;
    found.extend(inbound.iter().map(|row| row.get(0)));
    Ok(found)
}

async fn indexes(
    client: &Client,
    table: &Relation,
    oid: u32,
    live: &Column,
    mirror: &str,
    names: &Names,
    obstacles: &mut Vec<String>,
) -> Result<Vec<Index>> {
    let nulls = if client.version() >= 150_000 { "i.indnullsnotdistinct" } else { "false" };
    let sql = format!(
        "SELECT c.relname::text, i.indisunique, i.indisvalid, i.indisreplident, i.indisexclusion, am.amname::text,
                i.indnkeyatts, i.indkey::int2[],
                ARRAY(SELECT pg_get_indexdef(i.indexrelid, k::int, false) FROM generate_series(1, i.indnatts) k),
                ARRAY(SELECT CASE WHEN o.opcdefault THEN '' ELSE format('%I.%I', n.nspname, o.opcname) END
                        FROM generate_series(0, i.indnkeyatts - 1) k JOIN pg_opclass o ON o.oid = i.indclass[k]
                        JOIN pg_namespace n ON n.oid = o.opcnamespace ORDER BY k),
                ARRAY(SELECT CASE WHEN l.oid IS NULL OR l.oid = coalesce(a.attcollation, 0) THEN ''
                                  ELSE format('%I.%I', n.nspname, l.collname) END
                        FROM generate_series(0, i.indnkeyatts - 1) k LEFT JOIN pg_collation l ON l.oid = i.indcollation[k]
                        LEFT JOIN pg_namespace n ON n.oid = l.collnamespace
                        LEFT JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[k] ORDER BY k),
                i.indoption::int2[], pg_get_expr(i.indpred, i.indrelid), array_to_string(c.reloptions, ', '),
                (SELECT format('%I', t.spcname) FROM pg_tablespace t WHERE t.oid = c.reltablespace),
                k.conname::text, k.contype::text, k.condeferrable, k.condeferred, {nulls},
                EXISTS (SELECT FROM regexp_matches(coalesce(i.indpred::text, '') || coalesce(i.indexprs::text, ''),
                                                   ':varattno ' || $2::int2::text || ' ')),
                $2::int2 = ANY (i.indkey::int2[])
           FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am am ON am.oid = c.relam
           LEFT JOIN pg_constraint k ON k.conindid = i.indexrelid AND k.conrelid = i.indrelid AND k.contype IN ('p', 'u', 'x')
          WHERE i.indrelid = $1 AND c.relname NOT LIKE $3 ORDER BY c.relname"
    );
    let mut found = Vec::new();
    for row in client.rows(&sql, &[&oid, &live.number, &like(&Names::prefix())]).await? {
        let name: String = row.get(0);
        let (in_text, in_key): (bool, bool) = (row.get(20), row.get(21));
        if !in_text && !in_key {
            continue;
        }
        let (keys, numbers): (Vec<String>, Vec<i16>) = (row.get(8), row.get(7));
        let (classes, collations): (Vec<String>, Vec<String>) = (row.get(9), row.get(10));
        let key_count = usize::from(row.get::<_, i16>(6).unsigned_abs());
        let ours = |place: usize| numbers.get(place) == Some(&live.number);
        let special = (0..key_count).any(|k| ours(k) && classes.get(k).is_some_and(|class| !class.is_empty()));
        let contype: Option<String> = row.get(16);
        let why = match contype.as_deref() {
            Some("x") => Some("an exclusion constraint"),
            _ if row.get(4) => Some("an exclusion constraint"),
            _ if in_text => Some("an expression or a predicate over the column"),
            _ if special => Some("an operator class of its own"),
            _ if row.get(3) => Some("the replica identity of the table"),
            _ if !row.get::<_, bool>(2) => Some("an index that is not valid"),
            _ => None,
        };
        if let Some(why) = why {
            obstacles.push(format!("index {name} ({why})"));
            continue;
        }
        let options: Vec<i16> = row.get(11);
        let mut key_texts = Vec::new();
        for (place, text) in keys.iter().enumerate() {
            let mut key = match numbers.get(place) {
                _ if ours(place) => quote(mirror),
                Some(0) => format!("({text})"),
                _ => text.clone(),
            };
            if place < key_count {
                if let Some(collation) = collations.get(place).filter(|c| !c.is_empty()) {
                    key.push_str(&format!(" COLLATE {collation}"));
                }
                if let Some(class) = classes.get(place).filter(|c| !c.is_empty()) {
                    key.push_str(&format!(" {class}"));
                }
                let option = options.get(place).copied().unwrap_or(0);
                if row.get::<_, String>(5) == "btree" {
                    key.push_str(match (option & 1 != 0, option & 2 != 0) {
                        (false, false) => "",
                        (false, true) => " NULLS FIRST",
                        (true, true) => " DESC",
                        (true, false) => " DESC NULLS LAST",
                    });
                }
            }
            key_texts.push(key);
        }
        let included = key_texts.split_off(key_count.min(key_texts.len()));
        let parked = names.parked_index(&name);
        let mut create = format!(
            "CREATE {}INDEX CONCURRENTLY {} ON {} USING {} ({})",
            if row.get(1) { "UNIQUE " } else { "" },
            quote(&parked.name),
            relation(table),
            quote(&row.get::<_, String>(5)),
            key_texts.join(", ")
        );
        if !included.is_empty() {
            create.push_str(&format!(" INCLUDE ({})", included.join(", ")));
        }
        if row.get(19) {
            create.push_str(" NULLS NOT DISTINCT");
        }
        if let Some(options) = row.get::<_, Option<String>>(13).filter(|o| !o.is_empty()) {
            create.push_str(&format!(" WITH ({options})"));
        }
        if let Some(tablespace) = row.get::<_, Option<String>>(14) {
            create.push_str(&format!(" TABLESPACE {tablespace}"));
        }
        if let Some(predicate) = row.get::<_, Option<String>>(12) {
            create.push_str(&format!(" WHERE {predicate}"));
        }
        let deferral = match (row.get::<_, Option<bool>>(17), row.get::<_, Option<bool>>(18)) {
            (Some(true), Some(true)) => " DEFERRABLE INITIALLY DEFERRED",
            (Some(true), _) => " DEFERRABLE",
            _ => "",
        };
        let constraint = match contype.as_deref() {
            Some("p") => Some(("PRIMARY KEY", deferral.to_owned())),
            Some("u") => Some(("UNIQUE", deferral.to_owned())),
            _ => None,
        };
        found.push(Index { name, parked, create, constraint });
    }
    Ok(found)
}

impl Moves {
    /// Whether PostgreSQL 11 would read the whole table under its strongest lock.
    pub(super) fn is_in_primary_key(&self) -> bool {
        self.indexes.iter().any(|index| matches!(index.constraint, Some(("PRIMARY KEY", _))))
    }

    /// Takes from the old column what the new one gets; before the names are swapped.
    pub(super) fn release(&self, table: &Relation, live: &str) -> Vec<String> {
        let (table, live) = (relation(table), quote(live));
        let constrained = self.indexes.iter().filter(|index| index.constraint.is_some()).map(|index| &index.name);
        let mut statements: Vec<String> = constrained
            .chain(self.constraints.iter().map(|constraint| &constraint.name))
            .map(|name| format!("ALTER TABLE {table} DROP CONSTRAINT {}", quote(name)))
            .collect();
        if !self.live.identity.is_empty() {
            statements.push(format!("ALTER TABLE {table} ALTER COLUMN {live} DROP IDENTITY"));
        } else if self.live.default.is_some() {
            statements.push(format!("ALTER TABLE {table} ALTER COLUMN {live} DROP DEFAULT"));
        }
        if self.live.not_null {
            statements.push(format!("ALTER TABLE {table} ALTER COLUMN {live} DROP NOT NULL"));
        }
        statements
    }

    /// Gives it to the column that has the name now.
    pub(super) fn give(
        &self,
        table: &Relation,
        live: &str,
        new_type: &str,
        identity: Option<&Identity>,
    ) -> Vec<String> {
        let (name, column) = (relation(table), quote(live));
        let mut statements = Vec::new();
        if self.live.not_null {
            statements.push(format!("ALTER TABLE {name} ALTER COLUMN {column} SET NOT NULL"));
        }
        match (identity, &self.live.default) {
            (Some(identity), _) => {
                statements.push(format!("ALTER TABLE {name} ALTER COLUMN {column} ADD {}", identity.clause));
            }
            (None, Some(default)) => {
                // A text has no cast to a number that an assignment would take.
                let family = super::sql::family(&self.live.dtype);
                let expression =
                    if default.contains("nextval(") || (family.is_some() && family == super::sql::family(new_type)) {
                        default.clone()
                    } else {
                        format!("CAST(({default}) AS {new_type})")
                    };
                statements.push(format!("ALTER TABLE {name} ALTER COLUMN {column} SET DEFAULT {expression}"));
            }
            (None, None) => {}
        }
        if let (Some(sequence), true) = (&self.sequence, self.live.identity.is_empty()) {
            if matches!(new_type, "bigint" | "integer" | "smallint") && self.live.dtype != "bigint" {
                statements.push(format!("ALTER SEQUENCE {sequence} AS bigint"));
            }
            statements.push(format!("ALTER SEQUENCE {sequence} OWNED BY {name}.{column}"));
        }
        for index in &self.indexes {
            let parked = relation(&index.parked);
            match &index.constraint {
                Some((kind, deferral)) => statements.push(format!(
                    "ALTER TABLE {name} ADD CONSTRAINT {} {kind} USING INDEX {}{deferral}",
                    quote(&index.name),
                    quote(&index.parked.name)
                )),
                None => {
                    let away = format!("{}m", Names::prefix());
                    let here = |name: &str| relation(&Relation::new(&table.schema, name));
                    statements.push(format!("ALTER INDEX {} RENAME TO {}", here(&index.name), quote(&away)));
                    statements.push(format!("ALTER INDEX {parked} RENAME TO {}", quote(&index.name)));
                    statements.push(format!("ALTER INDEX {} RENAME TO {}", here(&away), quote(&index.parked.name)));
                }
            }
        }
        for constraint in &self.constraints {
            statements.push(format!(
                "ALTER TABLE {name} ADD CONSTRAINT {} {} NOT VALID",
                quote(&constraint.name),
                constraint.definition
            ));
        }
        if let Some(comment) = &self.live.comment {
            statements.push(format!("COMMENT ON COLUMN {name}.{column} IS {}", literal(comment)));
        }
        statements
    }
}

/// An identity column's numbers go on where they were.
#[derive(Debug, Clone)]
pub(super) struct Identity {
    clause: String,
}

/// Read under the lock of the cut-over: no number is given meanwhile.
pub(super) async fn identity(client: &Client, moves: &Moves) -> Result<Option<Identity>> {
    let (Some(sequence), false) = (&moves.sequence, moves.live.identity.is_empty()) else { return Ok(None) };
    let sql = format!(
        "SELECT format('START WITH %s INCREMENT BY %s CACHE %s%s', CASE WHEN l.is_called THEN l.last_value + s.seqincrement \
         ELSE l.last_value END, s.seqincrement, s.seqcache, CASE WHEN s.seqcycle THEN ' CYCLE' ELSE '' END) FROM {sequence} \
         l, pg_sequence s WHERE s.seqrelid = {}::regclass",
        literal(sequence)
    );
    let options: String = client.row(&sql, &[]).await?.map(|row| row.get(0)).unwrap_or_default();
    let when = if moves.live.identity == "a" { "ALWAYS" } else { "BY DEFAULT" };
    Ok(Some(Identity { clause: format!("GENERATED {when} AS IDENTITY ({options})") }))
}

/// Of the table's columns, constraints, indexes and triggers, without what a migration makes outside of its transactions:
/// an expression, so that it can be noted in the same transaction that changes the table.
pub(super) fn signature(oid: u32) -> String {
    let ours = literal(&like(&Names::prefix()));
    format!(
        "md5(concat_ws('|', \
           (SELECT string_agg(concat_ws(' ', attname, format_type(atttypid, atttypmod), attnotnull), ',' ORDER BY attname) \
              FROM pg_attribute WHERE attrelid = {oid} AND attnum > 0 AND NOT attisdropped), \
           (SELECT string_agg(concat_ws(' ', conname, replace(pg_get_constraintdef(oid), ' NOT VALID', '')), ',' ORDER BY conname) \
              FROM pg_constraint WHERE conrelid = {oid} AND contype <> 'n' AND conname NOT LIKE {ours}), \
           (SELECT string_agg(pg_get_indexdef(i.indexrelid), ',' ORDER BY c.relname) \
              FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid WHERE i.indrelid = {oid} AND c.relname NOT LIKE {ours}), \
           (SELECT string_agg(pg_get_triggerdef(oid), ',' ORDER BY tgname) \
              FROM pg_trigger WHERE tgrelid = {oid} AND NOT tgisinternal AND tgname NOT LIKE '~' || {ours})))"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_modifier_stands_where_the_catalog_writes_it() {
        assert_eq!(with_modifier("character varying", "varchar( 20 )"), "character varying(20)");
        assert_eq!(with_modifier("timestamp with time zone", "timestamptz(3)"), "timestamp(3) with time zone");
        assert_eq!(with_modifier("numeric", "numeric(10,2)"), "numeric(10,2)");
        assert_eq!(with_modifier("numeric[]", "numeric(10,2)[]"), "numeric(10,2)[]");
        assert_eq!(with_modifier("bigint", "int8"), "bigint");
        assert_eq!(without_modifier("timestamp(3) with time zone"), "timestamp with time zone");
    }
}

//! What the catalog knows of a table and of what hangs on its columns.
//!
//! A statement on a table goes on to its partitions and children, so their own indexes and constraints count as the
//! table's. What they only have from their parent counts once.

use dpone_planner::Result;
use dpone_planner::schema::{Dependent, DependentKind, TableFacts};
use tokio_postgres::Row;

use crate::catalog::Table;
use crate::client::Client;

/// The table, its partitions and children; their columns; and the objects that the catalog says look at columns.
const FOUND: &str = "WITH RECURSIVE
  tree(oid) AS (
    SELECT $1::oid UNION SELECT i.inhrelid FROM pg_catalog.pg_inherits i JOIN tree t ON i.inhparent = t.oid),
  col AS (
    SELECT a.attrelid, a.attnum, a.attname::text AS name, a.attinhcount, a.atttypid
      FROM pg_catalog.pg_attribute a JOIN tree t ON t.oid = a.attrelid WHERE a.attnum > 0 AND NOT a.attisdropped),
  looks AS (
    SELECT d.classid, d.objid, d.objsubid, array_agg(DISTINCT c.name) AS columns
      FROM pg_catalog.pg_depend d JOIN col c ON c.attrelid = d.refobjid AND c.attnum = d.refobjsubid
     WHERE d.refclassid = 'pg_catalog.pg_class'::regclass GROUP BY 1, 2, 3),
  domain(attrelid, name, top, type) AS (
    SELECT c.attrelid, c.name, t.oid, t.oid FROM col c JOIN pg_catalog.pg_type t ON t.oid = c.atttypid AND t.typtype = 'd'
    UNION
    SELECT d.attrelid, d.name, d.top, b.oid FROM domain d JOIN pg_catalog.pg_type t ON t.oid = d.type
      JOIN pg_catalog.pg_type b ON b.oid = t.typbasetype AND b.typtype = 'd'),
  row_type(oid) AS (
    SELECT c.reltype FROM pg_catalog.pg_class c JOIN tree t ON t.oid = c.oid
    UNION
    SELECT x.oid FROM row_type r CROSS JOIN LATERAL (
      SELECT t.typarray AS oid FROM pg_catalog.pg_type t WHERE t.oid = r.oid AND t.typarray <> 0
      UNION ALL SELECT d.objid FROM pg_catalog.pg_depend d
       WHERE d.refclassid = 'pg_catalog.pg_type'::regclass AND d.refobjid = r.oid
         AND d.classid = 'pg_catalog.pg_type'::regclass AND d.deptype = 'n'
      UNION ALL SELECT c.reltype FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_class c ON c.oid = d.objid AND c.relkind = 'c'
       WHERE d.refclassid = 'pg_catalog.pg_type'::regclass AND d.refobjid = r.oid
         AND d.classid = 'pg_catalog.pg_class'::regclass) x)";

const INDEXES: &str = "SELECT 'index'::text AS kind, format('%I.%I', n.nspname, c.relname) AS name,
    ARRAY(SELECT o.name FROM col o WHERE o.attrelid = i.indrelid AND o.attnum = ANY (i.indkey::int2[])
          UNION SELECT unnest(l.columns) FROM looks l
           WHERE l.classid = 'pg_catalog.pg_class'::regclass AND l.objid = i.indexrelid ORDER BY 1) AS columns,
    pg_catalog.pg_get_indexdef(i.indexrelid) AS definition, i.indisunique AS a, i.indisprimary AS b,
    i.indexprs IS NULL AND i.indpred IS NULL AS c, i.indisvalid AS d, NULL::text AS not_null
  FROM pg_catalog.pg_index i JOIN tree t ON t.oid = i.indrelid JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_inherits h WHERE h.inhrelid = i.indexrelid)";

/// CHECKs, exclusions, foreign keys of the table, and NOT NULL that is not valid.
const CONSTRAINTS: &str =
    "SELECT CASE k.contype WHEN 'f' THEN 'foreign_key' WHEN 'x' THEN 'exclusion' ELSE 'check' END,
    k.conname::text,
    ARRAY(SELECT o.name FROM col o WHERE o.attrelid = k.conrelid AND o.attnum = ANY (k.conkey) ORDER BY 1),
    pg_catalog.pg_get_constraintdef(k.oid), k.convalidated, false, false, false,
    (SELECT o.name FROM col o WHERE o.attrelid = k.conrelid AND k.conrelid = $1 AND k.contype IN ('c', 'n')
        AND NOT k.connoinherit AND array_length(k.conkey, 1) = 1 AND o.attnum = k.conkey[1]
        AND (k.contype = 'n' OR pg_catalog.pg_get_expr(k.conbin, k.conrelid) = format('(%I IS NOT NULL)', o.name)))
  FROM pg_catalog.pg_constraint k JOIN tree t ON t.oid = k.conrelid
 WHERE k.conparentid = 0 AND (k.conrelid = $1 OR k.coninhcount = 0 OR k.conislocal)
   AND (k.contype IN ('c', 'f', 'x') OR k.contype = 'n' AND NOT k.convalidated)";

const REFERENCES: &str = "SELECT 'inbound', k.conname::text,
    ARRAY(SELECT o.name FROM col o WHERE o.attrelid = k.confrelid AND o.attnum = ANY (k.confkey) ORDER BY 1),
    pg_catalog.pg_get_constraintdef(k.oid), k.convalidated, false, false, false, NULL
  FROM pg_catalog.pg_constraint k JOIN tree t ON t.oid = k.confrelid WHERE k.contype = 'f' AND k.conparentid = 0";

const RULES: &str = "SELECT CASE v.relkind WHEN 'v' THEN 'view' WHEN 'm' THEN 'materialized_view' ELSE 'rule' END,
    CASE WHEN v.relkind IN ('v', 'm') THEN format('%I.%I', n.nspname, v.relname) ELSE r.rulename::text END,
    l.columns, '', false, false, false, false, NULL
  FROM looks l JOIN pg_catalog.pg_rewrite r ON r.oid = l.objid AND l.classid = 'pg_catalog.pg_rewrite'::regclass
  JOIN pg_catalog.pg_class v ON v.oid = r.ev_class JOIN pg_catalog.pg_namespace n ON n.oid = v.relnamespace";

const POLICIES: &str = "SELECT 'policy', p.polname::text, l.columns, '', false, false, false, false, NULL
  FROM looks l JOIN pg_catalog.pg_policy p ON p.oid = l.objid AND l.classid = 'pg_catalog.pg_policy'::regclass";

const TRIGGERS: &str =
    "SELECT 'trigger', g.tgname::text, l.columns, pg_catalog.pg_get_triggerdef(g.oid), false, false, false, \
                        false, NULL
  FROM looks l JOIN pg_catalog.pg_trigger g ON g.oid = l.objid AND l.classid = 'pg_catalog.pg_trigger'::regclass
 WHERE NOT g.tgisinternal";

const PUBLICATIONS: &str = "SELECT 'publication', p.pubname::text, l.columns, '', false, false, false, false, NULL
  FROM looks l JOIN pg_catalog.pg_publication_rel r
    ON r.oid = l.objid AND l.classid = 'pg_catalog.pg_publication_rel'::regclass
  JOIN pg_catalog.pg_publication p ON p.oid = r.prpubid";

const STATISTICS: &str = "SELECT 'statistics', s.stxname::text, l.columns, '', false, false, false, false, NULL
  FROM looks l JOIN pg_catalog.pg_statistic_ext s
    ON s.oid = l.objid AND l.classid = 'pg_catalog.pg_statistic_ext'::regclass";

const FUNCTIONS: &str = "SELECT 'function', p.oid::regprocedure::text, l.columns, '', false, false, false, false, NULL
  FROM looks l JOIN pg_catalog.pg_proc p ON p.oid = l.objid AND l.classid = 'pg_catalog.pg_proc'::regclass";

/// Since version 12. The dependency is that of the column up to 14, and that of its expression from 15 on, which looks at
/// its own column too.
const GENERATED: &str = "SELECT 'generated_column', g.attname::text, l.columns, '', false, false, false, false, NULL
  FROM looks l JOIN pg_catalog.pg_attribute g
    ON l.classid = 'pg_catalog.pg_class'::regclass AND g.attrelid = l.objid AND g.attnum = l.objsubid
 WHERE l.objsubid > 0 AND g.attgenerated <> ''
 UNION ALL
 SELECT 'generated_column', g.attname::text, array_remove(l.columns, g.attname::text), '', false, false, false, false, NULL
  FROM looks l JOIN pg_catalog.pg_attrdef e ON l.classid = 'pg_catalog.pg_attrdef'::regclass AND e.oid = l.objid
  JOIN pg_catalog.pg_attribute g ON g.attrelid = e.adrelid AND g.attnum = e.adnum
 WHERE g.attgenerated <> '' AND l.columns <> ARRAY[g.attname::text]";

const PARTITION_KEYS: &str = "SELECT 'partition_key', '',
    ARRAY(SELECT o.name FROM col o WHERE o.attrelid = p.partrelid AND o.attnum = ANY (p.partattrs::int2[])
          UNION SELECT o.name FROM pg_catalog.pg_depend d JOIN col o ON o.attrelid = d.objid AND o.attnum = d.objsubid
           WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = p.partrelid AND d.deptype = 'i'
             AND d.refclassid = d.classid AND d.refobjid = d.objid AND d.refobjsubid = 0
          UNION SELECT unnest(l.columns) FROM looks l
           WHERE l.classid = 'pg_catalog.pg_class'::regclass AND l.objid = p.partrelid AND l.objsubid = 0 ORDER BY 1),
    pg_catalog.pg_get_partkeydef(p.partrelid), false, false, false, false, NULL
  FROM pg_catalog.pg_partitioned_table p JOIN tree t ON t.oid = p.partrelid";

const DOMAINS: &str =
    "SELECT 'domain', pg_catalog.format_type(d.top, NULL), array_agg(DISTINCT d.name), '', false, false, \
                       false, false, NULL
  FROM domain d JOIN pg_catalog.pg_type t ON t.oid = d.type
 WHERE t.typnotnull OR EXISTS (SELECT FROM pg_catalog.pg_constraint k WHERE k.contypid = d.type AND k.contype = 'c')
 GROUP BY d.top";

const PARENTS: &str = "SELECT 'parent', format('%I.%I', n.nspname, p.relname),
    ARRAY(SELECT o.name FROM col o WHERE o.attrelid = $1 AND o.attinhcount > 0 ORDER BY 1), '', false, false, false, false, NULL
  FROM pg_catalog.pg_inherits i JOIN pg_catalog.pg_class p ON p.oid = i.inhparent
  JOIN pg_catalog.pg_namespace n ON n.oid = p.relnamespace WHERE i.inhrelid = $1";

/// Columns of other tables whose type is that of the table's rows.
const ROW_TYPES: &str =
    "SELECT 'row_type', format('%I.%I.%I', n.nspname, c.relname, a.attname), '{}'::text[], '', false, \
                         false, false, false, NULL
  FROM row_type r JOIN pg_catalog.pg_depend d ON d.refclassid = 'pg_catalog.pg_type'::regclass AND d.refobjid = r.oid
   AND d.classid = 'pg_catalog.pg_class'::regclass AND d.objsubid > 0
  JOIN pg_catalog.pg_class c ON c.oid = d.objid AND c.relkind IN ('r', 'm', 'p')
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum = d.objsubid";

/// How many there are changes with every new partition, and nothing of what is judged.
const CHILDREN: &str = "SELECT 'children', '', '{}'::text[], '', false, false, false, false, NULL
 WHERE EXISTS (SELECT FROM pg_catalog.pg_inherits i WHERE i.inhparent = $1)";

/// Reads the surroundings of a table.
pub(crate) async fn read(client: &Client, table: &Table) -> Result<TableFacts> {
    let mut parts = vec![
        INDEXES,
        CONSTRAINTS,
        REFERENCES,
        RULES,
        POLICIES,
        TRIGGERS,
        PUBLICATIONS,
        STATISTICS,
        FUNCTIONS,
        PARTITION_KEYS,
        DOMAINS,
        PARENTS,
        ROW_TYPES,
        CHILDREN,
    ];
    if client.version() >= 120_000 {
        parts.push(GENERATED);
    }
    let sql = format!("{FOUND} {}", parts.join(" UNION ALL "));
    let rows = client.rows(&sql, &[&table.oid]).await?;
    let mut dependents: Vec<Dependent> = rows.iter().filter_map(dependent).collect();
    dependents.sort();
    dependents.dedup();
    let about = "WITH RECURSIVE tree(oid) AS (
             SELECT $1::oid UNION SELECT i.inhrelid FROM pg_catalog.pg_inherits i JOIN tree t ON i.inhparent = t.oid)
         SELECT pg_catalog.current_setting('TimeZone'), (SELECT c.relispartition FROM pg_catalog.pg_class c WHERE c.oid = $1),
                sum(pg_catalog.pg_table_size(t.oid))::int8, sum(pg_catalog.pg_relation_size(t.oid))::int8 FROM tree t";
    let about = client.row(about, &[&table.oid]).await?;
    let (zone, partition, bytes, pages) = match &about {
        Some(row) => {
            (row.get(0), row.get::<_, Option<bool>>(1), row.get::<_, Option<i64>>(2), row.get::<_, Option<i64>>(3))
        }
        None => (String::new(), None, None, None),
    };
    // No estimate says that there are no rows: a table without a page does.
    let rows = if pages == Some(0) { Some(0) } else { table.rows.filter(|rows| *rows > 0) };
    Ok(TableFacts {
        observed: true,
        version: Some(client.version()),
        settings: [("timezone".to_owned(), zone)].into(),
        kind: Some(if partition == Some(true) { "partition" } else { table.kind.as_str() }.to_owned()),
        rows,
        bytes: bytes.and_then(|bytes| u64::try_from(bytes).ok()),
        dependents,
    })
}

fn dependent(row: &Row) -> Option<Dependent> {
    let flag = |column: usize| row.get::<_, bool>(column);
    let kind = match row.get::<_, &str>(0) {
        "index" => DependentKind::Index { unique: flag(4), primary: flag(5), plain: flag(6), valid: flag(7) },
        "check" => DependentKind::Check { validated: flag(4), not_null: row.get(8) },
        "foreign_key" => DependentKind::ForeignKey { inbound: false, validated: flag(4) },
        "inbound" => DependentKind::ForeignKey { inbound: true, validated: flag(4) },
        "exclusion" => DependentKind::Exclusion,
        "view" => DependentKind::View,
        "materialized_view" => DependentKind::MaterializedView,
        "rule" => DependentKind::Rule,
        "policy" => DependentKind::Policy,
        "trigger" => DependentKind::Trigger,
        "publication" => DependentKind::Publication,
        "statistics" => DependentKind::Statistics,
        "function" => DependentKind::Function,
        "generated_column" => DependentKind::GeneratedColumn,
        "partition_key" => DependentKind::PartitionKey,
        "domain" => DependentKind::Domain,
        "row_type" => DependentKind::RowType,
        "parent" => DependentKind::Inheritance { child: true },
        "children" => DependentKind::Inheritance { child: false },
        _ => return None,
    };
    Some(Dependent { kind, name: row.get(1), columns: row.get(2), definition: row.get(3) })
}

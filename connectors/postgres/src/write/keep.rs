//! What a swap keeps: everything that belongs to a table, read from the catalog as the statements that make it again.
//!
//! The server's own `pg_get_…def` functions write the definitions, with an empty search path so that every name is
//! qualified. Two readings are compared to notice that the table was altered in between.

use dpone_engine::{Error, Result};
use tokio_postgres::types::ToSql;

use crate::client::Client;

/// Statements are complete SQL; the table is always meant under its final name, unless said otherwise.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Kept {
    pub(super) owner: String,
    pub(super) indexes: Vec<Index>,
    /// Foreign keys to other tables, added to the finished table: name and definition.
    pub(super) foreign_keys: Vec<(String, String)>,
    /// `ALTER COLUMN …` parts for the finished table, before it is analysed.
    pub(super) columns: Vec<String>,
    /// Sequences that live on: released from the old table, then owned by the new one.
    pub(super) release: Vec<String>,
    pub(super) identities: Vec<Identity>,
    /// The table's privileges, when they are not the default ones.
    pub(super) grants: Option<Vec<String>>,
    pub(super) after: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Index {
    pub(super) name: String,
    pub(super) schema: String,
    /// A constraint's definition; else the index's, from its access method on.
    pub(super) constraint: Option<String>,
    pub(super) unique: bool,
    pub(super) definition: String,
    pub(super) tablespace: String,
    /// Storage options, which a constraint's definition leaves out.
    pub(super) options: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) column: String,
    pub(super) schema: String,
    pub(super) sequence: String,
    /// Type and bounds: LIKE makes every sequence one of bigint.
    pub(super) options: String,
    pub(super) grants: Option<Vec<String>>,
}

/// The relation's qualified name, as all statements below have it.
const NAME: &str = "(SELECT pg_catalog.format('%I.%I', n.nspname, c.relname) FROM pg_catalog.pg_class c \
                    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = $1)";

/// Reads everything. The caller has set an empty search path.
pub(super) async fn read(client: &Client, oid: u32) -> Result<Kept> {
    let owner = client
        .row("SELECT pg_catalog.pg_get_userbyid(relowner)::text FROM pg_catalog.pg_class WHERE oid = $1", &[&oid])
        .await?
        .ok_or_else(|| Error::conflict("the target is gone"))?
        .get(0);
    let mut after = Vec::new();
    for sql in after_queries(client.version()) {
        after.extend(texts(client, &sql.replace("$NAME", NAME), &[&oid]).await?);
    }
    let foreign_keys = client
        .rows(
            "SELECT conname::text, pg_catalog.pg_get_constraintdef(oid) FROM pg_catalog.pg_constraint \
             WHERE conrelid = $1 AND contype = 'f' AND confrelid <> $1 ORDER BY conname",
            &[&oid],
        )
        .await?;
    let release = "SELECT pg_catalog.format('%I.%I', n.nspname, s.relname) FROM pg_catalog.pg_depend d \
                   JOIN pg_catalog.pg_class s ON s.oid = d.objid AND s.relkind = 'S' \
                   JOIN pg_catalog.pg_namespace n ON n.oid = s.relnamespace \
                   WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.refclassid = d.classid \
                   AND d.refobjid = $1 AND d.deptype = 'a' ORDER BY 1";
    Ok(Kept {
        owner,
        indexes: indexes(client, oid).await?,
        foreign_keys: foreign_keys.iter().map(|row| (row.get(0), row.get(1))).collect(),
        columns: texts(client, COLUMNS, &[&oid]).await?,
        release: texts(client, release, &[&oid]).await?,
        identities: identities(client, oid).await?,
        grants: grants(client, oid, "TABLE").await?,
        after,
    })
}

async fn texts(client: &Client, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> Result<Vec<String>> {
    Ok(client.rows(sql, parameters).await?.iter().map(|row| row.get(0)).collect())
}

async fn indexes(client: &Client, oid: u32) -> Result<Vec<Index>> {
    let rows = client
        .rows(
            "SELECT ic.relname::text, n.nspname::text, pg_catalog.pg_get_constraintdef(con.oid), i.indisunique, \
                    pg_catalog.pg_get_indexdef(i.indexrelid), \
                    pg_catalog.format('CREATE %sINDEX %I ON %I.%I USING ', CASE WHEN i.indisunique THEN 'UNIQUE ' ELSE '' END, \
                                      ic.relname, n.nspname, tc.relname), \
                    COALESCE(ts.spcname::text, ''), pg_catalog.array_to_string(ic.reloptions, ', ') \
               FROM pg_catalog.pg_index i \
               JOIN pg_catalog.pg_class ic ON ic.oid = i.indexrelid \
               JOIN pg_catalog.pg_class tc ON tc.oid = i.indrelid \
               JOIN pg_catalog.pg_namespace n ON n.oid = ic.relnamespace \
               LEFT JOIN pg_catalog.pg_tablespace ts ON ts.oid = ic.reltablespace \
               LEFT JOIN pg_catalog.pg_constraint con ON con.conindid = i.indexrelid AND con.conrelid = i.indrelid \
                                                     AND con.contype IN ('p', 'u', 'x') \
              WHERE i.indrelid = $1 AND i.indisvalid ORDER BY i.indisprimary DESC, ic.relname",
            &[&oid],
        )
        .await?;
    rows.iter()
        .map(|row| {
            let (definition, prefix): (String, String) = (row.get(4), row.get(5));
            let definition = definition.strip_prefix(&prefix).ok_or_else(|| {
                Error::internal(format!("the definition of the index {:?} has another form", row.get::<_, String>(0)))
            })?;
            Ok(Index {
                name: row.get(0),
                schema: row.get(1),
                constraint: row.get(2),
                unique: row.get(3),
                definition: definition.to_owned(),
                tablespace: row.get(6),
                options: row.get(7),
            })
        })
        .collect()
}

async fn identities(client: &Client, oid: u32) -> Result<Vec<Identity>> {
    let rows = client
        .rows(
            "SELECT a.attname::text, n.nspname::text, s.relname::text, s.oid, \
                    pg_catalog.format('AS %s INCREMENT BY %s MINVALUE %s MAXVALUE %s START WITH %s CACHE %s %sCYCLE', \
                                      pg_catalog.format_type(q.seqtypid, NULL), q.seqincrement, q.seqmin, q.seqmax, \
                                      q.seqstart, q.seqcache, CASE WHEN q.seqcycle THEN '' ELSE 'NO ' END) \
               FROM pg_catalog.pg_depend d \
               JOIN pg_catalog.pg_sequence q ON q.seqrelid = d.objid \
               JOIN pg_catalog.pg_class s ON s.oid = d.objid AND s.relkind = 'S' \
               JOIN pg_catalog.pg_namespace n ON n.oid = s.relnamespace \
               JOIN pg_catalog.pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid \
              WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.refclassid = d.classid AND d.refobjid = $1 \
                AND d.deptype = 'i' ORDER BY a.attnum",
            &[&oid],
        )
        .await?;
    let mut identities = Vec::new();
    for row in rows {
        let grants = grants(client, row.get(3), "SEQUENCE").await?;
        identities.push(Identity {
            column: row.get(0),
            schema: row.get(1),
            sequence: row.get(2),
            options: row.get(4),
            grants,
        });
    }
    Ok(identities)
}

/// GRANT statements, or `None` where the privileges are the default ones.
async fn grants(client: &Client, oid: u32, kind: &str) -> Result<Option<Vec<String>>> {
    let has = client.row("SELECT relacl IS NOT NULL FROM pg_catalog.pg_class WHERE oid = $1", &[&oid]).await?;
    if !has.is_some_and(|row| row.get(0)) {
        return Ok(None);
    }
    let sql = format!(
        "SELECT pg_catalog.format('GRANT %s ON {kind} %s TO %s%s', a.privilege_type, {NAME}, \
                CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(a.grantee)) END, \
                CASE WHEN a.is_grantable AND a.grantee <> t.relowner THEN ' WITH GRANT OPTION' ELSE '' END) \
           FROM pg_catalog.pg_class t CROSS JOIN LATERAL pg_catalog.aclexplode(t.relacl) WITH ORDINALITY \
                AS a (grantor, grantee, privilege_type, is_grantable, place) \
          WHERE t.oid = $1 ORDER BY a.place"
    );
    texts(client, &sql, &[&oid]).await.map(Some)
}

const COLUMNS: &str = "\
    SELECT pg_catalog.format('ALTER COLUMN %I SET STATISTICS %s', attname, attstattarget) \
      FROM pg_catalog.pg_attribute WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped AND attstattarget >= 0 \
    UNION ALL \
    SELECT pg_catalog.format('ALTER COLUMN %I SET (%s)', attname, pg_catalog.array_to_string(attoptions, ', ')) \
      FROM pg_catalog.pg_attribute WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped AND attoptions IS NOT NULL \
    ORDER BY 1";

/// Statements to run once the new table has its name, in order. `$NAME` is the table.
fn after_queries(version: u32) -> Vec<String> {
    let mut queries: Vec<String> = [
        // Privileges on single columns.
        "SELECT pg_catalog.format('GRANT %s (%I) ON TABLE %s TO %s%s', a.privilege_type, t.attname, $NAME, \
                CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(a.grantee)) END, \
                CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END) \
           FROM pg_catalog.pg_attribute t CROSS JOIN LATERAL pg_catalog.aclexplode(t.attacl) WITH ORDINALITY \
                AS a (grantor, grantee, privilege_type, is_grantable, place) \
          WHERE t.attrelid = $1 AND NOT t.attisdropped ORDER BY t.attnum, a.place",
        "SELECT pg_catalog.format('ALTER SEQUENCE %I.%I OWNED BY %s.%I', n.nspname, s.relname, $NAME, a.attname) \
           FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_class s ON s.oid = d.objid AND s.relkind = 'S' \
           JOIN pg_catalog.pg_namespace n ON n.oid = s.relnamespace \
           JOIN pg_catalog.pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid \
          WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.refclassid = d.classid AND d.refobjid = $1 \
            AND d.deptype = 'a' ORDER BY 1",
        // Made valid by LIKE; their old rows were never checked, nor were they promised to be.
        "SELECT pg_catalog.format('ALTER TABLE ONLY %s DROP CONSTRAINT %I, ADD CONSTRAINT %I %s', $NAME, conname, \
                conname, pg_catalog.pg_get_constraintdef(oid)) \
           FROM pg_catalog.pg_constraint WHERE conrelid = $1 AND contype = 'c' AND NOT convalidated ORDER BY conname",
        "SELECT pg_catalog.format('ALTER TABLE ONLY %s ADD CONSTRAINT %I %s', $NAME, conname, \
                pg_catalog.pg_get_constraintdef(oid)) \
           FROM pg_catalog.pg_constraint WHERE conrelid = $1 AND contype = 'f' AND confrelid = $1 ORDER BY conname",
        "SELECT pg_catalog.format('ALTER TABLE ONLY %s %s ROW LEVEL SECURITY', $NAME, w.what) \
           FROM pg_catalog.pg_class c CROSS JOIN (VALUES ('ENABLE'), ('FORCE')) w (what) \
          WHERE c.oid = $1 AND CASE w.what WHEN 'ENABLE' THEN c.relrowsecurity ELSE c.relforcerowsecurity END",
        "SELECT pg_catalog.format('CREATE POLICY %I ON %s AS %s FOR %s TO %s%s%s', polname, $NAME, \
                CASE WHEN polpermissive THEN 'PERMISSIVE' ELSE 'RESTRICTIVE' END, \
                CASE polcmd WHEN 'r' THEN 'SELECT' WHEN 'a' THEN 'INSERT' WHEN 'w' THEN 'UPDATE' WHEN 'd' THEN 'DELETE' \
                            ELSE 'ALL' END, \
                (SELECT pg_catalog.string_agg(CASE r.role WHEN 0 THEN 'PUBLIC' \
                        ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(r.role)) END, ', ') \
                   FROM pg_catalog.unnest(polroles) r (role)), \
                COALESCE(' USING (' || pg_catalog.pg_get_expr(polqual, polrelid) || ')', ''), \
                COALESCE(' WITH CHECK (' || pg_catalog.pg_get_expr(polwithcheck, polrelid) || ')', '')) \
           FROM pg_catalog.pg_policy WHERE polrelid = $1 ORDER BY polname",
        "SELECT pg_catalog.pg_get_statisticsobjdef(oid) FROM pg_catalog.pg_statistic_ext WHERE stxrelid = $1 \
          ORDER BY stxname",
        "SELECT pg_catalog.format('ALTER STATISTICS %I.%I OWNER TO %I', n.nspname, s.stxname, \
                pg_catalog.pg_get_userbyid(s.stxowner)) \
           FROM pg_catalog.pg_statistic_ext s JOIN pg_catalog.pg_namespace n ON n.oid = s.stxnamespace \
          WHERE s.stxrelid = $1 AND pg_catalog.pg_get_userbyid(s.stxowner) <> current_user ORDER BY s.stxname",
        "SELECT pg_catalog.format('ALTER INDEX %I.%I ALTER COLUMN %s SET STATISTICS %s', n.nspname, ic.relname, \
                a.attnum, a.attstattarget) \
           FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class ic ON ic.oid = i.indexrelid \
           JOIN pg_catalog.pg_namespace n ON n.oid = ic.relnamespace \
           JOIN pg_catalog.pg_attribute a ON a.attrelid = ic.oid \
          WHERE i.indrelid = $1 AND i.indisvalid AND a.attstattarget >= 0 AND i.indkey[a.attnum - 1] = 0 ORDER BY 1",
        "SELECT pg_catalog.format('ALTER TABLE ONLY %s REPLICA IDENTITY %s', $NAME, CASE c.relreplident \
                WHEN 'f' THEN 'FULL' WHEN 'n' THEN 'NOTHING' ELSE 'USING INDEX ' || (SELECT pg_catalog.quote_ident(ic.relname) \
                FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class ic ON ic.oid = i.indexrelid \
                WHERE i.indrelid = c.oid AND i.indisreplident) END) \
           FROM pg_catalog.pg_class c WHERE c.oid = $1 AND c.relreplident <> 'd'",
        "SELECT pg_catalog.format('ALTER TABLE ONLY %s CLUSTER ON %I', $NAME, ic.relname) \
           FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class ic ON ic.oid = i.indexrelid \
          WHERE i.indrelid = $1 AND i.indisclustered",
        "SELECT pg_catalog.pg_get_triggerdef(oid) FROM pg_catalog.pg_trigger \
          WHERE tgrelid = $1 AND NOT tgisinternal ORDER BY tgname",
        "SELECT pg_catalog.format('ALTER TABLE ONLY %s %s TRIGGER %I', $NAME, CASE tgenabled WHEN 'D' THEN 'DISABLE' \
                WHEN 'R' THEN 'ENABLE REPLICA' ELSE 'ENABLE ALWAYS' END, tgname) \
           FROM pg_catalog.pg_trigger WHERE tgrelid = $1 AND NOT tgisinternal AND tgenabled <> 'O' ORDER BY tgname",
        "SELECT pg_catalog.format('COMMENT ON TABLE %s IS %L', $NAME, pg_catalog.obj_description($1, 'pg_class')) \
          WHERE pg_catalog.obj_description($1, 'pg_class') IS NOT NULL",
        "SELECT pg_catalog.format('COMMENT ON CONSTRAINT %I ON %s IS %L', c.conname, $NAME, \
                pg_catalog.obj_description(c.oid, 'pg_constraint')) \
           FROM pg_catalog.pg_constraint c WHERE c.conrelid = $1 \
            AND pg_catalog.obj_description(c.oid, 'pg_constraint') IS NOT NULL ORDER BY c.conname",
        "SELECT pg_catalog.format('COMMENT ON INDEX %I.%I IS %L', n.nspname, ic.relname, \
                pg_catalog.obj_description(ic.oid, 'pg_class')) \
           FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class ic ON ic.oid = i.indexrelid \
           JOIN pg_catalog.pg_namespace n ON n.oid = ic.relnamespace \
          WHERE i.indrelid = $1 AND i.indisvalid AND pg_catalog.obj_description(ic.oid, 'pg_class') IS NOT NULL ORDER BY 1",
        "SELECT pg_catalog.format('COMMENT ON TRIGGER %I ON %s IS %L', t.tgname, $NAME, \
                pg_catalog.obj_description(t.oid, 'pg_trigger')) \
           FROM pg_catalog.pg_trigger t WHERE t.tgrelid = $1 \
            AND pg_catalog.obj_description(t.oid, 'pg_trigger') IS NOT NULL ORDER BY t.tgname",
        "SELECT pg_catalog.format('COMMENT ON POLICY %I ON %s IS %L', p.polname, $NAME, \
                pg_catalog.obj_description(p.oid, 'pg_policy')) \
           FROM pg_catalog.pg_policy p WHERE p.polrelid = $1 \
            AND pg_catalog.obj_description(p.oid, 'pg_policy') IS NOT NULL ORDER BY p.polname",
        "SELECT pg_catalog.format('COMMENT ON STATISTICS %I.%I IS %L', n.nspname, s.stxname, \
                pg_catalog.obj_description(s.oid, 'pg_statistic_ext')) \
           FROM pg_catalog.pg_statistic_ext s JOIN pg_catalog.pg_namespace n ON n.oid = s.stxnamespace \
          WHERE s.stxrelid = $1 AND pg_catalog.obj_description(s.oid, 'pg_statistic_ext') IS NOT NULL ORDER BY 1",
    ]
    .map(str::to_owned)
    .to_vec();
    if version >= 130_000 {
        queries.push(
            "SELECT pg_catalog.format('ALTER STATISTICS %I.%I SET STATISTICS %s', n.nspname, s.stxname, s.stxstattarget) \
               FROM pg_catalog.pg_statistic_ext s JOIN pg_catalog.pg_namespace n ON n.oid = s.stxnamespace \
              WHERE s.stxrelid = $1 AND s.stxstattarget >= 0 ORDER BY 1"
                .to_owned(),
        );
    }
    // Column lists and row filters came with version 15.
    let (columns, filter) = if version >= 150_000 {
        (
            "COALESCE((SELECT ' (' || pg_catalog.string_agg(pg_catalog.quote_ident(a.attname), ', ' ORDER BY k.place) || ')' \
                FROM pg_catalog.unnest(r.prattrs) WITH ORDINALITY k (attnum, place) \
                JOIN pg_catalog.pg_attribute a ON a.attrelid = r.prrelid AND a.attnum = k.attnum), '')",
            "COALESCE(' WHERE (' || pg_catalog.pg_get_expr(r.prqual, r.prrelid) || ')', '')",
        )
    } else {
        ("''", "''")
    };
    queries.push(format!(
        "SELECT pg_catalog.format('ALTER PUBLICATION %I ADD TABLE ONLY %s%s%s', p.pubname, $NAME, {columns}, {filter}) \
           FROM pg_catalog.pg_publication_rel r JOIN pg_catalog.pg_publication p ON p.oid = r.prpubid \
          WHERE r.prrelid = $1 ORDER BY p.pubname"
    ));
    queries
}

/// Triggers run for the rows that a load writes, except on a table that is swapped in: worth a line in a plan.
pub(super) async fn triggers_note(client: &Client, oid: u32) -> Result<Option<String>> {
    let names = texts(
        client,
        "SELECT tgname::text FROM pg_catalog.pg_trigger WHERE tgrelid = $1 AND NOT tgisinternal AND tgenabled <> 'D' \
         ORDER BY tgname",
        &[&oid],
    )
    .await?;
    Ok((!names.is_empty())
        .then(|| format!("triggers fire for the rows that are written (an exchange fires none): {}", names.join(", "))))
}

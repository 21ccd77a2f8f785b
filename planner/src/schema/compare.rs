//! What differs between the columns of a source and those of a target, under a policy. No server is asked, and nothing
//! is guessed: a column is renamed only where the source declares its earlier name.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::{Field, FieldRef, Schema};
use serde::Serialize;

use super::columns::{COLLATION, COMMENT, DEFAULT, aliases};
use super::lattice::{Fit, fit};
use super::policy::{EvolutionMode, EvolutionPolicy, TargetNullability};
use super::sequence::retyped;
use super::{SchemaChange, variant};
use crate::dialect::Dialect;
use crate::error::Result;
use crate::plan::RESERVED_PREFIX;
use crate::types::{GENERATED, OWN, is_raw, native_of};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ChangeKind {
    AddColumn,
    DropColumn,
    RenameColumn,
    TypeWiden,
    /// The source's type became narrower than the target's: a difference for `strict` alone.
    TypeNarrow,
    /// No type holds the values of both.
    TypeChange,
    NullabilityRelax,
    NullabilityTighten,
    DefaultChange,
    CommentChange,
    CollationChange,
    /// A column of the source has a name that is kept for ours.
    ReservedColumn,
    /// A column of its own for values that do not fit the target's type.
    AddGeneratedColumn,
}

impl ChangeKind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AddColumn => "add_column",
            Self::DropColumn => "drop_column",
            Self::RenameColumn => "rename_column",
            Self::TypeWiden => "type_widen",
            Self::TypeNarrow => "type_narrow",
            Self::TypeChange => "type_change",
            Self::NullabilityRelax => "nullability_relax",
            Self::NullabilityTighten => "nullability_tighten",
            Self::DefaultChange => "default_change",
            Self::CommentChange => "comment_change",
            Self::CollationChange => "collation_change",
            Self::ReservedColumn => "reserved_column",
            Self::AddGeneratedColumn => "add_generated_column",
        }
    }

    /// Whether it is about the type of a column that both sides have.
    pub fn is_of_type(self) -> bool {
        matches!(self, Self::TypeWiden | Self::TypeNarrow | Self::TypeChange | Self::AddGeneratedColumn)
    }
}

/// A column as documents show it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ColumnShape {
    pub name: String,
    /// The native type where it is of the dialect's system, else the name of what it holds.
    pub dtype: String,
    pub nullable: bool,
    pub collation: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
}

impl ColumnShape {
    pub fn of(field: &Field, dialect: &dyn Dialect) -> Self {
        let text = |key: &str| field.metadata().get(key).filter(|text| !text.is_empty()).cloned();
        Self {
            name: field.name().clone(),
            dtype: type_name(field, dialect),
            nullable: field.is_nullable(),
            collation: text(COLLATION),
            default: text(DEFAULT),
            comment: text(COMMENT),
        }
    }
}

pub(super) fn type_name(field: &Field, dialect: &dyn Dialect) -> String {
    native_of(field, dialect.system()).map_or_else(|| dialect.shape(field).name(), str::to_owned)
}

/// One difference.
#[derive(Debug, Clone)]
pub struct Change {
    pub kind: ChangeKind,
    /// The column, by the name that it has in the source, or in the target where the source lacks it.
    pub column: String,
    pub source: Option<FieldRef>,
    pub target: Option<FieldRef>,
    /// Whether those who read the table would see another thing than before, or the policy forbids it.
    pub breaking: bool,
    /// One sentence.
    pub reason: String,
    /// The column that takes the values which do not fit.
    pub generated_column: Option<String>,
    /// What would make the target agree; `None` where nothing can, or nothing need be done.
    pub ddl: Option<SchemaChange>,
}

/// All differences, in the order of the source's columns and then of the target's.
#[derive(Debug, Clone, Default)]
pub struct Comparison {
    pub changes: Vec<Change>,
    /// The target's column for each column of the source that goes to one of another name.
    pub mapping: BTreeMap<String, String>,
}

impl Comparison {
    pub fn has_breaking_changes(&self) -> bool {
        self.changes.iter().any(|change| change.breaking)
    }
}

/// Compares the columns of a source with those of a target. Columns that the target fills by itself, and those that dpone
/// keeps there, are not the source's to have.
pub fn compare_columns(
    source: &Schema,
    target: &Schema,
    dialect: &dyn Dialect,
    policy: &EvolutionPolicy,
) -> Result<Comparison> {
    let mut found = Comparer { source, target, dialect, policy, out: Comparison::default(), claimed: Vec::new() };
    for field in source.fields() {
        found.column(field)?;
    }
    for field in target.fields() {
        let ours = field.name().starts_with(RESERVED_PREFIX) || field.metadata().contains_key(GENERATED);
        if !ours && !found.claimed.contains(field.name()) && source.field_with_name(field.name()).is_err() {
            found.dropped(field);
        }
    }
    Ok(found.out)
}

struct Comparer<'a> {
    source: &'a Schema,
    target: &'a Schema,
    dialect: &'a dyn Dialect,
    policy: &'a EvolutionPolicy,
    out: Comparison,
    /// Columns of the target that a renamed column of the source has.
    claimed: Vec<String>,
}

impl Comparer<'_> {
    fn push(&mut self, change: Change) {
        self.out.changes.push(change);
    }

    fn strict(&self) -> bool {
        self.policy.mode == EvolutionMode::Strict
    }

    fn column(&mut self, field: &FieldRef) -> Result<()> {
        let reserved = field.name().starts_with(RESERVED_PREFIX) && !field.metadata().contains_key(OWN);
        if reserved && !self.policy.allow_reserved_dpone_columns {
            self.push(Change {
                kind: ChangeKind::ReservedColumn,
                column: field.name().clone(),
                source: Some(Arc::clone(field)),
                target: None,
                breaking: true,
                reason: format!("the prefix {RESERVED_PREFIX} is kept for columns of dpone"),
                generated_column: None,
                ddl: None,
            });
            return Ok(());
        }
        match find(self.target, field.name()) {
            Some(there) => self.both(field, &there),
            None => match self.earlier(field) {
                Some(there) => self.renamed(field, &there),
                None => {
                    self.added(field);
                    Ok(())
                }
            },
        }
    }

    /// The target's column under an earlier name of the source's column, where no other column has it.
    fn earlier(&self, field: &Field) -> Option<FieldRef> {
        let is_free = |name: &String| !self.claimed.contains(name) && self.source.field_with_name(name).is_err();
        aliases(field).iter().filter(|name| is_free(name)).find_map(|name| find(self.target, name))
    }

    fn added(&mut self, field: &FieldRef) {
        let breaking = self.strict();
        let reason = match (self.policy.mode, field.is_nullable()) {
            (EvolutionMode::Strict, _) => "the target lacks the column, and the policy strict allows no difference",
            (_, true) => "the target lacks the column",
            (_, false) => "the target lacks the column, and it takes no NULL",
        };
        let has_default = field.metadata().get(DEFAULT).is_some_and(|default| !default.is_empty());
        let additive_gap = self.policy.mode == EvolutionMode::Additive && !field.is_nullable() && !has_default;
        self.push(Change {
            kind: ChangeKind::AddColumn,
            column: field.name().clone(),
            source: Some(Arc::clone(field)),
            target: None,
            breaking: breaking || additive_gap,
            reason: reason.to_owned(),
            generated_column: None,
            ddl: Some(SchemaChange::AddColumn { column: Arc::clone(field) }),
        });
    }

    fn dropped(&mut self, field: &FieldRef) {
        self.push(Change {
            kind: ChangeKind::DropColumn,
            column: field.name().clone(),
            source: None,
            target: Some(Arc::clone(field)),
            breaking: true,
            reason: "the source lacks the column; the target keeps it until somebody drops it".to_owned(),
            generated_column: None,
            ddl: self.policy.allow_drop.then(|| SchemaChange::DropColumn { column: Arc::clone(field) }),
        });
    }

    fn renamed(&mut self, field: &FieldRef, there: &FieldRef) -> Result<()> {
        self.claimed.push(there.name().clone());
        self.out.mapping.insert(field.name().clone(), there.name().clone());
        self.push(Change {
            kind: ChangeKind::RenameColumn,
            column: field.name().clone(),
            source: Some(Arc::clone(field)),
            target: Some(Arc::clone(there)),
            breaking: true,
            reason: format!("the source declares that the column was called {:?} before", there.name()),
            generated_column: None,
            ddl: Some(SchemaChange::RenameColumn { from: Arc::clone(there), to: field.name().clone() }),
        });
        // What else differs is judged as if the column had its new name already.
        let there = Arc::new(there.as_ref().clone().with_name(field.name()));
        self.both(field, &there)
    }

    fn both(&mut self, field: &FieldRef, there: &FieldRef) -> Result<()> {
        // The type last: it is what is left undone most often, and where a statement states the whole column, one after it
        // would take it back.
        self.nullability(field, there);
        self.collation(field, there);
        self.default(field, there);
        self.comment(field, there);
        if !is_raw(field) {
            self.types(field, there)?;
        }
        Ok(())
    }

    fn change(&self, kind: ChangeKind, field: &FieldRef, there: &FieldRef) -> Change {
        Change {
            kind,
            column: field.name().clone(),
            source: Some(Arc::clone(field)),
            target: Some(Arc::clone(there)),
            breaking: true,
            reason: String::new(),
            generated_column: None,
            ddl: None,
        }
    }

    fn types(&mut self, field: &FieldRef, there: &FieldRef) -> Result<()> {
        let (given, held) = (self.dialect.shape(field), self.dialect.shape(there));
        let names = (type_name(field, self.dialect), type_name(there, self.dialect));
        match fit(&given, &held) {
            Fit::Same => {}
            Fit::Narrower if !self.strict() => {}
            Fit::Narrower => {
                let mut change = self.change(ChangeKind::TypeNarrow, field, there);
                change.reason =
                    format!("{} is narrower than {}, and the policy strict allows no difference", names.0, names.1);
                self.push(change);
            }
            Fit::Wider(join) => {
                let wide = if join == given && native_of(field, self.dialect.system()).is_some() {
                    field.as_ref().clone()
                } else {
                    match self.dialect.field_of(field.name(), &join) {
                        Ok(wide) => wide,
                        // The lattice is that of all systems: this one may lack the type that would hold both.
                        Err(_) => return self.incompatible(field, there, &names),
                    }
                };
                if self.dialect.shape(&wide) == held {
                    return Ok(());
                }
                let mut change = self.change(ChangeKind::TypeWiden, field, there);
                change.breaking = self.policy.mode != EvolutionMode::Widening;
                let wide_name = type_name(&wide, self.dialect);
                change.reason = match self.policy.mode {
                    EvolutionMode::Widening if wide_name == names.0 => {
                        format!("{wide_name} holds all values of {}", names.1)
                    }
                    EvolutionMode::Widening => format!("{wide_name} holds all values of {} and {}", names.1, names.0),
                    mode => format!(
                        "{} does not hold all values of {}, and the policy {} widens no type",
                        names.1,
                        names.0,
                        mode_name(mode)
                    ),
                };
                change.ddl = Some(SchemaChange::AlterType { from: Arc::clone(there), to: retyped(there, &wide) });
                self.push(change);
            }
            Fit::Incompatible => self.incompatible(field, there, &names)?,
        }
        Ok(())
    }

    fn incompatible(&mut self, field: &FieldRef, there: &FieldRef, names: &(String, String)) -> Result<()> {
        if !self.policy.routes_variants() || self.strict() {
            let mut change = self.change(ChangeKind::TypeChange, field, there);
            change.reason = format!("no type holds the values of {} and of {} as what they are", names.1, names.0);
            change.ddl = Some(SchemaChange::AlterType { from: Arc::clone(there), to: retyped(there, field) });
            self.push(change);
            return Ok(());
        }
        if let Some(change) = self.variant(field, there)? {
            self.push(change);
        }
        Ok(())
    }

    /// Routes the values to a column of their own: a change where that is not there yet.
    fn variant(&mut self, field: &FieldRef, there: &FieldRef) -> Result<Option<Change>> {
        let column = variant::column(field, self.target, self.dialect, self.policy);
        self.out.mapping.insert(field.name().clone(), column.field.name().clone());
        if column.exists {
            return Ok(None);
        }
        let mut change = self.change(ChangeKind::AddGeneratedColumn, field, there);
        change.breaking = false;
        change.reason = format!(
            "{} does not hold values of {}: they go to {:?}",
            type_name(there, self.dialect),
            type_name(field, self.dialect),
            column.field.name()
        );
        change.generated_column = Some(column.field.name().clone());
        change.ddl = Some(SchemaChange::AddColumn { column: column.field });
        Ok(Some(change))
    }

    fn nullability(&mut self, field: &FieldRef, there: &FieldRef) {
        let (kind, ddl, reason) = match (field.is_nullable(), there.is_nullable()) {
            (true, false) => (
                ChangeKind::NullabilityRelax,
                SchemaChange::DropNotNull { column: Arc::clone(there) },
                "the source may hold NULL: whoever relies on NOT NULL in the target has to know",
            ),
            (false, true) if self.policy.target_nullability == TargetNullability::Strict => (
                ChangeKind::NullabilityTighten,
                SchemaChange::SetNotNull { column: Arc::clone(there) },
                "the source takes no NULL, and target_nullability is strict",
            ),
            _ => return,
        };
        let mut change = self.change(kind, field, there);
        change.breaking = kind == ChangeKind::NullabilityTighten || self.policy.mode != EvolutionMode::Widening;
        change.reason = reason.to_owned();
        change.ddl = Some(ddl);
        self.push(change);
    }

    fn collation(&mut self, field: &FieldRef, there: &FieldRef) {
        let (Some(given), held) = (field.metadata().get(COLLATION), there.metadata().get(COLLATION)) else { return };
        if Some(given) == held {
            return;
        }
        let mut change = self.change(ChangeKind::CollationChange, field, there);
        change.reason = "another collation sorts and compares the same texts otherwise".to_owned();
        change.ddl = Some(SchemaChange::SetCollation { column: Arc::clone(there), collation: given.clone() });
        self.push(change);
    }

    fn default(&mut self, field: &FieldRef, there: &FieldRef) {
        let Some(given) = field.metadata().get(DEFAULT) else { return };
        if given == there.metadata().get(DEFAULT).map_or("", String::as_str) {
            return;
        }
        let mut change = self.change(ChangeKind::DefaultChange, field, there);
        change.breaking = self.strict();
        change.reason = "rows that are there keep their values; rows to come get the new default".to_owned();
        change.ddl = Some(match given.as_str() {
            "" => SchemaChange::DropDefault { column: Arc::clone(there) },
            default => SchemaChange::SetDefault { column: Arc::clone(there), default: default.to_owned() },
        });
        self.push(change);
    }

    fn comment(&mut self, field: &FieldRef, there: &FieldRef) {
        let Some(given) = field.metadata().get(COMMENT) else { return };
        if Some(given) == there.metadata().get(COMMENT) {
            return;
        }
        let mut change = self.change(ChangeKind::CommentChange, field, there);
        change.breaking = self.strict();
        change.reason = "a comment changes nothing that is stored".to_owned();
        let comment = Some(given.clone()).filter(|text| !text.is_empty());
        change.ddl = Some(SchemaChange::SetComment { column: Arc::clone(there), comment });
        self.push(change);
    }
}

fn find(schema: &Schema, name: &str) -> Option<FieldRef> {
    schema.fields().iter().find(|field| field.name() == name).cloned()
}

pub(super) fn mode_name(mode: EvolutionMode) -> &'static str {
    match mode {
        EvolutionMode::Strict => "strict",
        EvolutionMode::Additive => "additive",
        EvolutionMode::Widening => "widening",
    }
}

/// Replaces a widening that cannot be made while the table is in use: the values go to a column of their own.
pub(super) fn as_variant(
    change: &Change,
    target: &Schema,
    dialect: &dyn Dialect,
    policy: &EvolutionPolicy,
    mapping: &mut BTreeMap<String, String>,
) -> Result<Option<Change>> {
    let (Some(field), Some(there)) = (&change.source, &change.target) else { return Ok(Some(change.clone())) };
    let mut comparer =
        Comparer { source: target, target, dialect, policy, out: Comparison::default(), claimed: Vec::new() };
    let routed = comparer.variant(field, there)?;
    mapping.extend(comparer.out.mapping);
    Ok(routed)
}

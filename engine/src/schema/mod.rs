//! What is kept about changes of a schema: the ledger of what was planned and done, the approvals, the history of each
//! table's columns, and notifications. All of it is files that people read, copy and check in.

mod approval;
mod canonical;
pub(crate) mod files;
mod history;
mod keys;
mod ledger;
mod migrate;
mod notify;

pub use approval::{
    Approval, ApprovalRequest, ApprovalStatus, Approvals, Approved, DEFAULT_APPROVALS, DEFAULT_EXPIRY, Signature,
    Subject, Trust, Verdict,
};
pub use files::{document_path, read_document, write_document};
pub use history::{Column, ColumnDiff, DEFAULT_HISTORY, SchemaDiff, SchemaHistoryRegistry, SchemaVersion};
pub use keys::{PublicKey, SigningKey};
pub use ledger::{Entry, EntryAction, EntryStatus, Ledger, NewEntry, StoredEntry, Verified};
pub use migrate::{MigrationBudget, MigrationOutcome, MigrationReport, MigrationRequest, Migrator};
pub use notify::{Notification, NotifiedChange, SchemaNotificationService, Severity, Written};

//! What a change of a schema costs: the lock that it takes, and the work that is done under it.

use serde::{Deserialize, Serialize};

/// How dangerous a change is, as one word. From the least to the most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Risk {
    /// A constant amount of work once the lock is granted.
    MetadataOnly,
    /// Work that grows with the table, while readers and writers go on.
    LowLock,
    /// Work that grows with the table, while writers, or readers and writers, wait.
    Blocking,
    /// Those who read the table see another thing than before: a column less, another name, other values.
    Breaking,
    /// The system refuses it.
    Unsupported,
}

impl Risk {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::MetadataOnly => "metadata_only",
            Self::LowLock => "low_lock",
            Self::Blocking => "blocking",
            Self::Breaking => "breaking",
            Self::Unsupported => "unsupported",
        }
    }

    /// Whether it may be applied while the table is in use.
    pub fn is_online(self) -> bool {
        matches!(self, Self::MetadataOnly | Self::LowLock)
    }
}

/// What is done to the rows under the lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Work {
    None,
    /// Every row is read.
    Scan,
    /// An index is built, or built again.
    IndexBuild,
    /// Every row is written again.
    Rewrite,
    /// Rows are written again in the background, after the statement has returned.
    Mutation,
}

/// How long a change may wait for its lock, and how long it may take.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockBudget {
    /// `None`: as long as the session says.
    pub lock_timeout_ms: Option<u64>,
    pub statement_timeout_ms: Option<u64>,
}

/// What one change costs on one server. It judges the physical side alone: whether the change breaks those who read the
/// table is judged by comparing the schemas.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cost {
    /// [`Risk::MetadataOnly`], [`Risk::LowLock`], [`Risk::Blocking`] or [`Risk::Unsupported`].
    pub risk: Risk,
    /// The strongest lock on the table, in the system's own words; `None` where it takes none.
    pub lock: Option<String>,
    pub work: Work,
    /// One sentence: why it costs that.
    pub reason: String,
    /// What to do instead, or around it, step by step; empty where the change itself is online.
    pub online_path: Vec<String>,
    /// What had to be assumed because no catalog was read, one sentence each.
    pub assumptions: Vec<String>,
}

impl Cost {
    pub fn new(risk: Risk, lock: Option<&str>, work: Work, reason: impl Into<String>) -> Self {
        Self {
            risk,
            lock: lock.map(str::to_owned),
            work,
            reason: reason.into(),
            online_path: Vec::new(),
            assumptions: Vec::new(),
        }
    }

    /// A change that the system refuses.
    pub fn unsupported(reason: impl Into<String>) -> Self {
        Self::new(Risk::Unsupported, None, Work::None, reason)
    }

    pub fn online_path<S: Into<String>>(mut self, steps: impl IntoIterator<Item = S>) -> Self {
        self.online_path.extend(steps.into_iter().map(Into::into));
        self
    }

    pub fn assuming(mut self, sentence: impl Into<String>) -> Self {
        self.assumptions.push(sentence.into());
        self
    }

    /// Whether rows are written again.
    pub fn rewrites(&self) -> bool {
        matches!(self.work, Work::Rewrite | Work::Mutation)
    }
}

//! The values that options choose from.

use clap::ValueEnum;
use rollback_core::{FailurePolicy, Mark};
use rollback_mlflow::ArtifactCheck;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people
    Table,
    /// Stable, for programs; errors on stderr are JSON as well
    Json,
    /// The same as YAML
    Yaml,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum DryRun {
    /// The server checks the change and keeps nothing of it
    Server,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum OnFailure {
    /// Stop; what was done stands
    Halt,
    /// Stop, and reverse what was done
    Compensate,
    /// Go on with the others
    Continue,
}

impl From<OnFailure> for FailurePolicy {
    fn from(policy: OnFailure) -> Self {
        match policy {
            OnFailure::Halt => Self::Halt,
            OnFailure::Compensate => Self::Compensate,
            OnFailure::Continue => Self::Continue,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum GitOps {
    /// Refuse, and say what to do there
    Refuse,
    /// Go on, and keep watching whether it is taken back
    Ignore,
}

impl GitOps {
    /// What another command has to say to be taken in the same way.
    pub(crate) fn flag(self) -> &'static str {
        match self {
            Self::Refuse => "",
            Self::Ignore => " --gitops=ignore",
        }
    }
}

impl From<GitOps> for rollback_k8s::GitOps {
    fn from(gitops: GitOps) -> Self {
        match gitops {
            GitOps::Refuse => Self::Refuse,
            GitOps::Ignore => Self::Ignore,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Conflicts {
    /// They stay as they are, and the plan says so
    Keep,
    /// They are set all the same
    Force,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Compat {
    /// As `kubectl rollout undo`
    Kubectl,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum GoodOrBad {
    /// It was seen to work
    Good,
    /// It is not to be returned to, unless forced
    Bad,
}

impl From<GoodOrBad> for Mark {
    fn from(mark: GoodOrBad) -> Self {
        match mark {
            GoodOrBad::Good => Self::Good,
            GoodOrBad::Bad => Self::Bad,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Artifacts {
    /// Refuse
    Require,
    /// Go on, with a warning
    Warn,
    /// Ask nothing
    Skip,
}

impl From<Artifacts> for ArtifactCheck {
    fn from(check: Artifacts) -> Self {
        match check {
            Artifacts::Require => Self::Require,
            Artifacts::Warn => Self::Warn,
            Artifacts::Skip => Self::Skip,
        }
    }
}

/// In which form a report is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ReportFormat {
    /// For a wiki or a pull request.
    Markdown,
    /// One file for a browser.
    Html,
    /// The data.
    Json,
}

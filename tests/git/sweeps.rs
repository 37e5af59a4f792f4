//! Every point at which a run can go wrong, for environments.

use rollback_testkit::sweeps::InMemory;

use crate::conformance::{Settings, World};

type Env = World<Settings>;
rollback_testkit::sweeps!(Env, InMemory);

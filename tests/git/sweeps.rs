//! Every point at which a run can go wrong, for environments.

use rollback_testkit::sweeps::InMemory;

rollback_testkit::sweeps!(crate::conformance::World, InMemory);

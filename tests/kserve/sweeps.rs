//! Every point at which a run can go wrong, for InferenceServices in both modes.

use rollback_testkit::sweeps::InMemory;

mod knative {
    type World = crate::conformance::World<crate::conformance::InKnative>;
    rollback_testkit::sweeps!(World, super::InMemory, ignore "three changes for each component: ./dev long");
}

mod standard {
    type World = crate::conformance::World<crate::conformance::InStandard>;
    rollback_testkit::sweeps!(World, super::InMemory);
}

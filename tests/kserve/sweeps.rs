//! Every point at which a run can go wrong, for InferenceServices in both modes.

use rollback_testkit::sweeps::InMemory;

mod knative {
    type World = crate::conformance::World<crate::conformance::InKnative>;
    rollback_testkit::sweeps!(World, super::InMemory, ignore "three changes for each component: ./dev long");
}

mod knative_with_a_canary {
    type World = crate::conformance::World<crate::conformance::InKnativeWithCanary>;
    rollback_testkit::sweeps!(World, super::InMemory, ignore "three changes for each component: ./dev long");
}

mod standard_with_a_canary {
    type World = crate::conformance::World<crate::conformance::InStandardWithCanary>;
    rollback_testkit::sweeps!(World, super::InMemory);
}

mod standard {
    type World = crate::conformance::World<crate::conformance::InStandard>;
    rollback_testkit::sweeps!(World, super::InMemory);
}

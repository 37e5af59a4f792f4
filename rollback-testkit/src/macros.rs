//! From the list of cases to tests.

use std::future::Future;
use std::time::Duration;

/// Makes one test of each function in [`conformance`](mod@crate::conformance) for a [`Fixture`](crate::Fixture).
///
/// A case that does not apply is named with its reason, and becomes an ignored test that shows it:
///
/// ```no_run
/// # use std::sync::Arc;
/// # use rollback_core::Rollbackable;
/// # struct Registry;
/// # #[async_trait::async_trait]
/// # impl rollback_testkit::Fixture for Registry {
/// #     async fn new() -> Self { todo!() }
/// #     async fn component(&self) -> Arc<dyn Rollbackable> { todo!() }
/// #     fn older(&self) -> rollback_testkit::Deployed { todo!() }
/// #     async fn observe(&self) -> serde_json::Value { todo!() }
/// # }
/// rollback_testkit::conformance!(Registry, skip {
///     another_object_of_the_same_name_is_a_conflict: "a model has no identity beside its name",
/// });
/// ```
///
/// The tests run on two worker threads; `tokio(...)` at the end takes the arguments of `tokio::test`
/// instead: `conformance!(Registry, skip {}, tokio(start_paused = true));`. For several fixtures in one file, put
/// each call into a module of its own.
#[macro_export]
macro_rules! conformance {
    ($fixture:ty $(,)?) => {
        $crate::conformance!($fixture, skip {});
    };
    ($fixture:ty, skip { $($skip:tt)* } $(,)?) => {
        $crate::conformance!($fixture, skip { $($skip)* }, tokio(flavor = "multi_thread", worker_threads = 2));
    };
    ($fixture:ty, skip { $($case:ident: $why:literal),* $(,)? }, tokio $tokio:tt $(,)?) => {
        // A name that is no case does not compile.
        $( const _: () = { let _ = $crate::conformance::$case::<$fixture>; }; )*
        $crate::__conformance! { [$fixture] $tokio { $($case: $why,)* }
            reads_do_not_write
            history_lists_each_revision_once
            prepare_is_deterministic_and_round_trips
            returning_to_the_current_revision_is_nothing_to_do
            an_unknown_revision_is_not_found
            apply_reaches_the_target
            a_recorded_snapshot_can_be_returned_to
            every_write_is_announced
            applying_twice_is_applying_once
            a_lost_response_and_apply_again_is_applying_once
            an_edit_of_what_the_change_touches_is_a_conflict
            an_edit_of_anything_else_is_no_conflict
            another_object_of_the_same_name_is_a_conflict
            stopped_after_any_write_apply_finishes
            stopped_after_any_write_the_reversed_change_restores
            dropped_at_any_await_apply_finishes
            verify_ends_converged
            what_is_not_applied_is_not_verified
            what_never_settles_is_progressing_at_the_deadline
            http_statuses_map_to_kind_and_disposition
            no_secret_is_shown
        }
    };
}

/// For each case: one test, ignored where the case is in the list of skips.
#[doc(hidden)]
#[macro_export]
macro_rules! __conformance {
    ($fixture:tt $tokio:tt $skip:tt $($case:ident)*) => {
        $( $crate::__conformance_case! { $fixture $tokio $case $skip } )*
    };
}

// Two identifiers can be compared only by a rule that spells them out.
#[doc(hidden)]
#[macro_export]
macro_rules! __conformance_case {
    ($f:tt $t:tt reads_do_not_write { reads_do_not_write: $why:literal, $($rest:tt)* }) => {
        $crate::__conformance_test! { $f $t reads_do_not_write #[ignore = $why] }
    };
    ($f:tt $t:tt history_lists_each_revision_once { history_lists_each_revision_once: $why:literal, $($rest:tt)* }) => {
        $crate::__conformance_test! { $f $t history_lists_each_revision_once #[ignore = $why] }
    };
    ($f:tt $t:tt prepare_is_deterministic_and_round_trips { prepare_is_deterministic_and_round_trips: $why:literal, $($rest:tt)* }) => {
        $crate::__conformance_test! { $f $t prepare_is_deterministic_and_round_trips #[ignore = $why] }
    };
    ($f:tt $t:tt returning_to_the_current_revision_is_nothing_to_do { returning_to_the_current_revision_is_nothing_to_do: $why:literal, $($rest:tt)* }) => {
        $crate::__conformance_test! { $f $t returning_to_the_current_revision_is_nothing_to_do #[ignore = $why] }
    };
    ($f:tt $t:tt an_unknown_revision_is_not_found { an_unknown_revision_is_not_found: $why:literal, $($rest:tt)* }) => {
        $crate::__conformance_test! { $f $t an_unknown_revision_is_not_found #[ignore = $why] }
    };
    ($f:tt $t:tt apply_reaches_the_target { apply_reaches_the_target: $why:literal, $($rest:tt)* }) => {
        $crate::__conformance_test! { $f $t apply_reaches_the_target #[ignore = $why] }
    };
    ($f:tt $t:tt a_recorded_snapshot_can_be_returned_to { a_recorded_snapshot_can_be_returned_to: $why:literal, $($rest:tt)* }) => {
        $crate::__conformance_test! { $f $t a_recorded_snapshot_can_be_returned_to #[ignore = $why] }
    };
    ($f:tt $t:tt every_write_is_announced { every_write_is_announced: $why:literal, $($rest:tt)* }) => {
        $crate::__conformance_test! { $f $t every_write_is_announced #[ignore = $why] }
    };
    ($f:tt $t:tt applying_twice_is_applying_once { applying_twice_is_applying_once: $why:literal, $($rest:tt)* }) => {
        $crate::__conformance_test! { $f $t applying_twice_is_applying_once #[ignore = $why] }
    };
    ($f:tt $t:tt a_lost_response_and_apply_again_is_applying_once { a_lost_response_and_apply_again_is_applying_once: $why:literal, $($rest:tt)* }) => {
        $crate::__conformance_test! { $f $t a_lost_response_and_apply_again_is_applying_once #[ignore = $why] }
    };
    ($f:tt $t:tt an_edit_of_what_the_change_touches_is_a_conflict { an_edit_of_what_the_change_touches_is_a_conflict: $why:literal, $($rest:tt)* }) => {
        $crate::__conformance_test! { $f $t an_edit_of_what_the_change_touches_is_a_conflict #[ignore = $why] }
    };
    ($f:tt $t:tt an_edit_of_anything_else_is_no_conflict { an_edit_of_anything_else_is_no_conflict: $why:literal, $($rest:tt)* }) => {
        $crate::__conformance_test! { $f $t an_edit_of_anything_else_is_no_conflict #[ignore = $why] }
    };
    ($f:tt $t:tt another_object_of_the_same_name_is_a_conflict { another_object_of_the_same_name_is_a_conflict: $why:literal, $($rest:tt)* }) => {
        $crate::__conformance_test! { $f $t another_object_of_the_same_name_is_a_conflict #[ignore = $why] }
    };
    ($f:tt $t:tt stopped_after_any_write_apply_finishes { stopped_after_any_write_apply_finishes: $why:literal, $($rest:tt)* }) => {
        $crate::__conformance_test! { $f $t stopped_after_any_write_apply_finishes #[ignore = $why] }
    };
    ($f:tt $t:tt stopped_after_any_write_the_reversed_change_restores { stopped_after_any_write_the_reversed_change_restores: $why:literal, $($rest:tt)* }) => {
        $crate::__conformance_test! { $f $t stopped_after_any_write_the_reversed_change_restores #[ignore = $why] }
    };
    ($f:tt $t:tt dropped_at_any_await_apply_finishes { dropped_at_any_await_apply_finishes: $why:literal, $($rest:tt)* }) => {
        $crate::__conformance_test! { $f $t dropped_at_any_await_apply_finishes #[ignore = $why] }
    };
    ($f:tt $t:tt verify_ends_converged { verify_ends_converged: $why:literal, $($rest:tt)* }) => {
        $crate::__conformance_test! { $f $t verify_ends_converged #[ignore = $why] }
    };
    ($f:tt $t:tt what_is_not_applied_is_not_verified { what_is_not_applied_is_not_verified: $why:literal, $($rest:tt)* }) => {
        $crate::__conformance_test! { $f $t what_is_not_applied_is_not_verified #[ignore = $why] }
    };
    ($f:tt $t:tt what_never_settles_is_progressing_at_the_deadline { what_never_settles_is_progressing_at_the_deadline: $why:literal, $($rest:tt)* }) => {
        $crate::__conformance_test! { $f $t what_never_settles_is_progressing_at_the_deadline #[ignore = $why] }
    };
    ($f:tt $t:tt http_statuses_map_to_kind_and_disposition { http_statuses_map_to_kind_and_disposition: $why:literal, $($rest:tt)* }) => {
        $crate::__conformance_test! { $f $t http_statuses_map_to_kind_and_disposition #[ignore = $why] }
    };
    ($f:tt $t:tt no_secret_is_shown { no_secret_is_shown: $why:literal, $($rest:tt)* }) => {
        $crate::__conformance_test! { $f $t no_secret_is_shown #[ignore = $why] }
    };
    ($f:tt $t:tt $case:ident { $other:ident: $why:literal, $($rest:tt)* }) => {
        $crate::__conformance_case! { $f $t $case { $($rest)* } }
    };
    ($f:tt $t:tt $case:ident {}) => {
        $crate::__conformance_test! { $f $t $case }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __conformance_test {
    ([$fixture:ty] ($($tokio:tt)*) $case:ident $(#[$ignore:meta])?) => {
        #[$crate::tokio::test($($tokio)*)]
        $(#[$ignore])?
        async fn $case() {
            $crate::within_limit($crate::conformance::$case::<$fixture>()).await;
        }
    };
}

/// Makes one test of each function in [`sweeps`](mod@crate::sweeps) for a [`Fixture`](crate::Fixture) and a
/// place for [`Journals`](crate::sweeps::Journals).
///
/// ```no_run
/// # use std::sync::Arc;
/// # use rollback_core::Rollbackable;
/// # struct Registry;
/// # #[async_trait::async_trait]
/// # impl rollback_testkit::Fixture for Registry {
/// #     async fn new() -> Self { todo!() }
/// #     async fn component(&self) -> Arc<dyn Rollbackable> { todo!() }
/// #     fn older(&self) -> rollback_testkit::Deployed { todo!() }
/// #     async fn observe(&self) -> serde_json::Value { todo!() }
/// # }
/// rollback_testkit::sweeps!(Registry, rollback_testkit::sweeps::InMemory);
/// ```
///
/// Arguments for `tokio::test` as in [`conformance!`](crate::conformance!). Sweeps that take long become ignored
/// tests with `ignore "where they run"`: `sweeps!(Registry, InMemory, ignore "cargo test -- --ignored");`.
#[macro_export]
macro_rules! sweeps {
    ($fixture:ty, $journals:ty $(,)?) => {
        $crate::sweeps!($fixture, $journals, tokio(flavor = "multi_thread", worker_threads = 2));
    };
    ($fixture:ty, $journals:ty, ignore $why:literal $(,)?) => {
        $crate::sweeps!($fixture, $journals, tokio(flavor = "multi_thread", worker_threads = 2), ignore $why);
    };
    ($fixture:ty, $journals:ty, tokio $tokio:tt $(, ignore $why:literal)? $(,)?) => {
        $crate::__sweeps! { [$fixture, $journals $(, $why)?] $tokio
            any_step_repeated_changes_nothing_more
            any_step_failed_the_policy_decides
            any_compensation_failed_the_run_is_stuck_there
            crashed_after_any_entry_of_the_journal_a_run_is_resumed
            crashed_before_or_after_any_write_a_run_is_resumed
            the_lease_lost_at_any_moment_the_run_stops_and_can_be_resumed
            the_response_of_any_write_lost_the_run_completes
        }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __sweeps {
    ($types:tt $tokio:tt $($sweep:ident)*) => {
        $( $crate::__sweep! { $types $tokio $sweep } )*
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __sweep {
    ([$fixture:ty, $journals:ty $(, $why:literal)?] ($($tokio:tt)*) $sweep:ident) => {
        #[$crate::tokio::test($($tokio)*)]
        $(#[ignore = $why])?
        async fn $sweep() {
            $crate::within_limit($crate::sweeps::$sweep::<$fixture, $journals>()).await;
        }
    };
}

/// So that a component that hangs fails its test. Ten minutes, or as many seconds as `ROLLBACK_TESTKIT_LIMIT` says.
#[doc(hidden)]
pub async fn within_limit(case: impl Future<Output = ()>) {
    let seconds = std::env::var("ROLLBACK_TESTKIT_LIMIT").ok().and_then(|text| text.parse().ok());
    let limit = Duration::from_secs(seconds.unwrap_or(600));
    assert!(tokio::time::timeout(limit, case).await.is_ok(), "not done after {limit:?}");
}

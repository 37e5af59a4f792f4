//! The component in memory keeps every promise, and a component that breaks one is found out.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "a test may fail loudly, in its helpers too"
)]

mod memory;
mod mutants;

rollback_testkit::conformance!(memory::Memory);

mod in_paused_time {
    rollback_testkit::conformance!(super::memory::Memory, skip {}, tokio(start_paused = true));
}

mod swept {
    use rollback_testkit::sweeps::InMemory;
    rollback_testkit::sweeps!(super::memory::Memory, InMemory, tokio(start_paused = true));
}

#[test]
fn the_macro_lists_every_case() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/conformance");
    let sources =
        std::fs::read_dir(folder).unwrap().map(|f| std::fs::read_to_string(f.unwrap().path()).unwrap());
    let sources: String = sources.collect();
    let cases: Vec<_> =
        sources.split("pub async fn ").skip(1).map(|rest| rest.split('<').next().unwrap()).collect();
    assert!(cases.len() > 20, "{cases:?}");
    let macros = include_str!("../src/macros.rs");
    for case in cases {
        assert!(macros.contains(&format!("            {case}\n")), "{case} is not run");
        assert!(macros.contains(&format!("{case} {{ {case}: $why:literal")), "{case} cannot be skipped");
    }
}

//! Rolls a service on this machine back to its last release, and shows every step of it.
//!
//! `cargo run --example quickstart` needs no cluster and no server. [`release`] is the part to read for
//! making something of your own roll back.

mod automatic;
mod release;
mod service;
mod story;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let reports = std::env::temp_dir().join(format!("rollback-quickstart-{}", std::process::id()));
    story::tell(&mut std::io::stdout(), &reports).await?;
    Ok(())
}

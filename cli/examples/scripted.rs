//! temporary
#[path = "../tests/support/mod.rs"] mod support;
use support::scripted::*;
fn main() {
    let rt = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let _ = std::fs::remove_dir_all("/tmp/scr"); std::fs::create_dir_all("/tmp/scr/state").unwrap();
    for (p, n) in [(Play::Well,"well"),(Play::Degraded,"degraded"),(Play::Unavailable,"unavailable"),(Play::Stranger,"stranger")] {
        serve(&rt, p, std::path::Path::new(&format!("/tmp/scr/{n}.sock")));
    }
    let s = std::path::Path::new("/tmp/scr/state");
    support::sample::ledger(s); support::sample::database(s);
    std::thread::sleep(std::time::Duration::from_secs(100000));
}

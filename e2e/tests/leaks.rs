//! A thousand containers leave nothing.

use hoy_e2e::daemon;

#[test]
fn a_thousand_containers_leave_nothing() {
    let daemon = daemon();
    let before = hoy_e2e::counts(&daemon);
    // On an emulated processor a part of them: it would take a quarter of an hour.
    let each = if hoy_testkit::in_guest() { 25 } else { 125 };
    std::thread::scope(|scope| {
        for worker in 0..8 {
            let daemon = &daemon;
            scope.spawn(move || {
                for number in 0..each {
                    let name = format!("c-{worker}-{number}");
                    match number % 5 {
                        0 => {
                            let run = [
                                "run", "-d", "--name", &name, "-p", "80", "busybox", "sleep",
                                "1000",
                            ];
                            daemon.hoy(&run).run().ok();
                            daemon.hoy(&["exec", &name, "true"]).run().ok();
                            daemon.hoy(&["rm", "-f", &name]).run().ok();
                        }
                        1 => {
                            daemon.hoy(&["create", "--name", &name, "busybox", "true"]).run().ok();
                            daemon.hoy(&["start", &name]).run().ok();
                            daemon.hoy(&["wait", &name]).run().ok();
                            daemon.hoy(&["rm", &name]).run().ok();
                        }
                        _ => {
                            daemon
                                .hoy(&["run", "--rm", "--name", &name, "busybox", "true"])
                                .run()
                                .ok();
                        }
                    }
                }
            });
        }
    });
    assert_eq!(daemon.hoy(&["ps", "-aq"]).run().ok(), "");
    before.wait_for(&daemon);
    assert_eq!(std::fs::read_dir(daemon.path("data/containers")).unwrap().count(), 0);
}

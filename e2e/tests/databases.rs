//! A real database: its data outlives containers, daemons and their deaths.

use hoy_testkit::{Daemon, Output, mariadb_rootfs, wait_until};

/// The server's own way to begin: an empty directory is made a database of.
const SERVE: &str = "export LD_LIBRARY_PATH=/opt/db/usr/lib/x86_64-linux-gnu PATH=$PATH:/opt/db/usr/bin:/opt/db/usr/sbin
[ -d /var/lib/mysql/mysql ] || mariadb-install-db --no-defaults --basedir=/opt/db/usr --user=mysql \
    --datadir=/var/lib/mysql --skip-test-db --auth-root-authentication-method=normal >/tmp/log 2>&1 || cat /tmp/log
exec mariadbd --no-defaults --basedir=/opt/db/usr --user=mysql --datadir=/var/lib/mysql --socket=/tmp/s \
    --plugin-dir=/opt/db/usr/lib/mysql/plugin --skip-networking";

fn start(daemon: &Daemon, name: &str, data: &str) {
    let volume = format!("{data}:/var/lib/mysql");
    let args = ["run", "-d", "--name", name, "-v", &volume, "-v", "/usr:/usr:ro", "db"];
    daemon.docker(&args).args(["sh", "-c", SERVE]).run().ok();
    wait_until("the database answers", || sql(daemon, name, "select 1").code == Some(0));
}

fn sql(daemon: &Daemon, name: &str, words: &str) -> Output {
    let client = "LD_LIBRARY_PATH=/opt/db/usr/lib/x86_64-linux-gnu exec /opt/db/usr/bin/mariadb \
                  --no-defaults -uroot -S/tmp/s -N -e \"$1\"";
    daemon.docker(&["exec", name, "sh", "-c", client, "sh", words]).run()
}

#[test]
fn data_outlives_its_containers() {
    let mut daemon = Daemon::start();
    let rootfs = mariadb_rootfs().display().to_string();
    let import = ["import", "-c", "VOLUME /var/lib/mysql", &rootfs, "db"];
    daemon.docker(&import).deadline(120).run().ok();
    let place = daemon.path("mysql").display().to_string();
    for (data, rows) in [(place.as_str(), "1"), ("named", "1")] {
        start(&daemon, "db1", data);
        sql(&daemon, "db1", "create database d; create table d.t(n int) engine=innodb").ok();
        sql(&daemon, "db1", "insert into d.t values (42)").ok();
        if data == "named" {
            // The server dies in the midst of its work, and so does the daemon.
            daemon.docker(&["kill", "db1"]).run().ok();
            daemon.kill();
            daemon.launch();
        } else {
            daemon.docker(&["stop", "db1"]).run().ok();
        }
        daemon.docker(&["rm", "-v", "db1"]).run().ok();
        start(&daemon, "db2", data);
        let found = sql(&daemon, "db2", "select count(*), max(n) from d.t");
        assert_eq!(found.ok().trim(), format!("{rows}\t42"));
        // They are the server's own, on the host, too.
        let owner = daemon.docker(&["exec", "db2", "stat", "-c", "%u", "/var/lib/mysql/d"]).run();
        assert_eq!(owner.ok().trim(), "100");
        daemon.docker(&["rm", "-f", "db2"]).run().ok();
    }
    assert_eq!(daemon.docker(&["volume", "ls", "-q"]).run().ok(), "named\n");
}

//! Makes the root file systems that take longest, so that tests find them: `./x test` runs this
//! while it compiles.

fn main() {
    hoy_testkit::debian_nginx_rootfs();
    hoy_testkit::debian_systemd_rootfs();
    hoy_testkit::mariadb_rootfs();
}

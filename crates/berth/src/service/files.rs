//! What a machine gets beside the program, for `berth install` and for packages.

/// The unit of systemd, whose program is `/usr/bin/berth`.
pub(crate) const UNIT: &str = include_str!("../../../../packaging/berth.service");
/// The folder of the administrators' socket, for tmpfiles.d(5).
pub(crate) const TMPFILES: &str = include_str!("../../../../packaging/berth.tmpfiles");
/// The group of administrators, for sysusers.d(5).
pub(crate) const SYSUSERS: &str = include_str!("../../../../packaging/berth.sysusers");
/// Where the unit and packages have the program.
pub(crate) const PACKAGED: &str = "/usr/bin/berth";
/// The settings of the server of this machine.
pub(crate) const SETTINGS: &str = "/etc/berth/berth.toml";

//! Settings of the core.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use crate::hosts::settings::HostSettings;
use crate::plans::settings::PlanSettings;
use crate::runtimes::{Runtime, defaults};

/// What an administrator can set of the core's behaviour.
#[derive(Debug, Clone, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Host ports that are chosen from where none is named, and by the `standalone` dialect.
    pub port_range: (u16, u16),
    /// Processes and threads of a container that says nothing.
    pub pids_limit: u64,
    /// Seconds between the stop signal and the kill.
    pub stop_timeout_s: u64,
    /// Whether accounts' users may have containers in the host's network; `berth account set NAME --host-network yes` decides
    /// for one account. Administrators may. Such containers of users have no NET_RAW and NET_BIND_SERVICE, and yet reach
    /// every service on the host's loopback and, as the host, containers of all accounts: give the right to accounts that you
    /// trust with that.
    pub host_network_for_users: bool,
    /// Whether what users name (code, images, registries) may be on loopback and private addresses; administrators may. An
    /// account's own word (`berth account set NAME --private-addresses yes`) comes first. The containers' own network,
    /// link-local and metadata addresses are never reached.
    pub private_addresses_for_users: bool,
    /// Folders of the host below which users may bind-mount; `{account}` in one is the account's name, as in
    /// `/srv/{account}`. Administrators may bind anything.
    pub bind_prefixes: Vec<String>,
    /// Longest pause before a container is started again by its restart policy. The first is 100 ms; each is twice the one
    /// before; a run of 10 s begins anew.
    pub restart_pause_max_ms: u64,
    /// MiB that an account's images may take unless it has a quota of its own; 0 is no bound.
    pub image_quota_mib: u64,
    /// Percent of the disk above which *pulled* images that no container uses are removed by themselves, the longest unused
    /// first. 0: never. Images that were loaded or committed are never removed by themselves.
    pub disk_high_percent: u8,
    /// Percent of the disk at which that ends.
    pub disk_low_percent: u8,
    /// Days that events are kept.
    pub event_days: u32,
    /// Seconds that a command may take.
    pub command_timeout_s: u64,
    /// Days that commands which are over are kept.
    pub command_days: u32,
    /// Days that the audit log is kept.
    pub audit_days: u32,
    /// Entries that the audit log has at most (some 200 MiB); the oldest of the account with the most go first.
    pub audit_max_rows: u32,
    /// Requests of an account a second, by any dialect, that go on for long; `0` for no bound.
    pub account_requests_per_s: u32,
    /// Requests of an account at once.
    pub account_requests_burst: u32,
    /// Versions of its code that are kept of a group; those in use always are.
    pub packages_kept: usize,
    /// Seconds that the timestamp of a signed request may be off.
    pub timestamp_tolerance_s: u64,
    /// IPv4 address by which clients reach this host's published ports; the dialect `comb` tells it as `public_ip`.
    pub public_address: Option<Ipv4Addr>,
    /// Requests a second that an account may send to the dialect `comb` for long; 0: no bound.
    pub requests_per_s: u32,
    /// Requests that it may send at once after a quiet time.
    pub requests_burst: u32,
    /// Seconds between two readings of what containers use.
    pub measure_period_s: u64,
    /// Days that readings are kept one by one.
    pub measure_raw_days: u32,
    /// Days that they are kept added up to five minutes.
    pub measure_five_minute_days: u32,
    /// Days that they are kept added up to hours; and that a removed container is known.
    pub measure_hour_days: u32,
    /// MiB of the largest archive of images that is fetched from an address, as the dialect `tingyu` may ask for.
    pub image_fetch_max_mib: u64,
    /// Percent of the deployments of a roll-out that are moved at a time. The next batch begins when all of this one have
    /// proven themselves.
    pub rollout_batch_percent: u8,
    /// Plans of the dialect `comb`.
    pub plans: PlanSettings,
    /// This server's own host.
    pub host: HostSettings,
    /// Zone of the times that dialects show without one, as the tz database names it.
    pub time_zone: String,
    /// Applications built at a time, of one account three quarters of them. One more waits for its turn, as long as a build
    /// may take.
    pub builds_at_once: usize,
    /// Ports that one container, or one group of a service, may have.
    pub ports_per_container: usize,
    /// Containers of a user's account that run at a time; another start is `no_room`. `0` is no bound; administrators have
    /// none.
    pub running_per_account: u32,
    /// Steps of commands that are under way at a time, of one account a fourth of them; the others wait.
    pub steps_at_once: usize,
    /// Commands of an account that are not over; another one is refused with `no_room`. What removes is always taken.
    pub commands_waiting: u32,
    /// MiB on disk that an account's files which are ready to be fetched (`downloadfile`) may take; `0` is no bound.
    pub download_quota_mib: u64,
    /// Applications that are built or wait for their turn, of one account half of them; one more is answered 10005.
    pub builds_waiting: usize,
    /// Seconds that a build may take, download and start included.
    pub build_timeout_s: u64,
    /// Milliseconds that a new container without a health check has to be up, without an end or a restart, before it takes
    /// the place of the one before.
    pub ready_time_ms: u64,
    /// Milliseconds for which an update of a deployment, a roll-out or a group's deployment goes on to watch all that it has replaced before it is a
    /// success; an end, a restart or ill health of any of them takes all of it back.
    pub soak_time_ms: u64,
    /// Milliseconds for which a container of a foreground `berth run --rm` that has ended waits for its client (one that was
    /// cut off finds it again); after that the server removes it.
    pub attended_ms: u64,
    /// How clients reach this server, such as `https://berth.example`, for links that are given out (`tingyu`'s downloads);
    /// empty: scheme, address and port by which the request came.
    pub public_url: String,
    /// Seconds to wait for an application to accept connections before its build is answered all the same.
    pub ready_wait_s: u64,
    /// Largest archive of code that is downloaded.
    pub code_max_mib: u64,
    /// Largest size of code unpacked.
    pub code_unpacked_max_mib: u64,
    /// Most entries of an archive of code.
    pub code_max_entries: u64,
    /// Whether code may be fetched from loopback and private ranges. Turn it off where clients are strangers. Link-local,
    /// multicast and cloud metadata addresses are never fetched from.
    pub code_from_private_addresses: bool,
    /// Operators of networks that a host may have; empty: any. Given by the program, which knows the dialects.
    #[serde(skip)]
    pub operators: Vec<String>,
    /// Dialects that an access key may be bounded to; empty: any. Given by the program.
    #[serde(skip)]
    pub dialects: Vec<String>,
    /// Runtimes of the `standalone` dialect by name.
    pub runtimes: BTreeMap<String, Runtime>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            port_range: (10_000, 30_000),
            pids_limit: 4096,
            stop_timeout_s: 10,
            host_network_for_users: false,
            private_addresses_for_users: false,
            bind_prefixes: Vec::new(),
            restart_pause_max_ms: 60_000,
            image_quota_mib: 0,
            disk_high_percent: 90,
            disk_low_percent: 80,
            event_days: 30,
            command_timeout_s: 3600,
            command_days: 30,
            audit_days: 365,
            audit_max_rows: 500_000,
            account_requests_per_s: 1000,
            account_requests_burst: 10_000,
            packages_kept: 10,
            timestamp_tolerance_s: 300,
            public_address: None,
            requests_per_s: 200,
            requests_burst: 1000,
            measure_period_s: 10,
            measure_raw_days: 1,
            measure_five_minute_days: 40,
            measure_hour_days: 730,
            image_fetch_max_mib: 8192,
            rollout_batch_percent: 10,
            plans: PlanSettings::default(),
            host: HostSettings::default(),
            time_zone: "Asia/Shanghai".into(),
            builds_at_once: 8,
            ports_per_container: 256,
            running_per_account: 512,
            steps_at_once: 512,
            commands_waiting: 10_000,
            download_quota_mib: 16_384,
            builds_waiting: 256,
            build_timeout_s: 300,
            ready_time_ms: 5000,
            soak_time_ms: 10_000,
            attended_ms: 15_000,
            public_url: String::new(),
            ready_wait_s: 20,
            code_max_mib: 512,
            code_unpacked_max_mib: 2048,
            code_max_entries: 200_000,
            code_from_private_addresses: true,
            operators: Vec::new(),
            dialects: Vec::new(),
            runtimes: defaults(),
        }
    }
}

impl Settings {
    /// Those of accounts and credentials.
    pub(crate) fn identity(&self) -> berth_identity::Options {
        berth_identity::Options {
            host_network_for_users: self.host_network_for_users,
            private_addresses_for_users: self.private_addresses_for_users,
            timestamp_tolerance_s: self.timestamp_tolerance_s,
            account_requests_per_s: self.account_requests_per_s,
            account_requests_burst: self.account_requests_burst,
            requests_per_s: self.requests_per_s,
            requests_burst: self.requests_burst,
            dialects: self.dialects.clone(),
        }
    }

    /// Those of operations.
    pub(crate) fn operations(&self) -> berth_operations::Options {
        berth_operations::Options { steps_at_once: self.steps_at_once, commands_waiting: self.commands_waiting }
    }
}

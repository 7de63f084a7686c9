//! The boundary behind which workloads run.
//!
//! The core knows [`Engine`] and nothing below it: a small base that every engine has, and abilities that it may have. The
//! embedded engine (`berth-engine-oci`) and [`FakeEngine`] pass the same [`contract::check`], which has a clause for each ability.

mod abilities;
pub mod contract;
mod engine;
mod fake;
mod fake_abilities;
mod inspection;
mod session;
mod types;

pub use abilities::{
    Abilities, ContainerFiles, Exec, Inbound, LiveUpdate, LoadBalancing, Naming, Pause, Ports, Signals,
    TrafficCounters, Usage,
};
pub use engine::{Changes, Engine, EngineError, Listening, LogReader};
pub use fake::{BareEngine, FakeEngine, Held};
pub use inspection::{ChangeKind, Inspection, PathChange, ProcessFacts};
pub use session::{ExecInput, ExecOutput, ExecRequest, FileStat, Files, Session};
pub use types::{
    DiskFacts, Exit, HostFacts, InterfaceFacts, LineFilter, LogLine, LogOptions, LogStream, Mount, MountSource,
    NetworkMode, Observed, Placement, PortBinding, PortProtocol, PortRequest, Rates, Resources, State, Stats, Traffic,
    UnitId, UnitSpec,
};

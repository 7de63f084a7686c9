//! The boundary behind which workloads run.
//!
//! The core knows [`Engine`] and nothing below it. The embedded engine (`berth-engine-oci`) and [`FakeEngine`] pass the
//! same [`contract::check`]; an engine for Kubernetes will have to as well.

pub mod contract;
mod engine;
mod fake;
mod session;
mod words;

pub use engine::{Changes, Engine, EngineError, Listening, LogReader};
pub use fake::{FakeEngine, Held};
pub use session::{ExecAsked, ExecInput, ExecOutput, FileStat, Files, Session};
pub use words::{
    Abilities, DiskFacts, Exit, HostFacts, InterfaceFacts, LogLine, LogOptions, LogStream, Mount, MountSource,
    NetworkMode, Observed, Placement, PortAsked, PortGiven, PortProtocol, Rates, Resources, State, Stats, Traffic,
    UnitId, UnitSpec,
};

//! The boundary behind which workloads run.
//!
//! The core knows [`Engine`] and nothing below it. The embedded engine (`berth-engine-oci`) and [`FakeEngine`] pass the
//! same [`contract::check`]; an engine for Kubernetes will have to as well.

pub mod contract;
mod engine;
mod fake;
mod inspection;
mod session;
mod types;

pub use engine::{Changes, Engine, EngineError, Listening, LogReader};
pub use fake::{FakeEngine, Held};
pub use inspection::{ChangeKind, Inspection, PathChange, ProcessFacts};
pub use session::{ExecInput, ExecOutput, ExecRequest, FileStat, Files, Session};
pub use types::{
    Abilities, DiskFacts, Exit, HostFacts, InterfaceFacts, LogLine, LogOptions, LogStream, Mount, MountSource,
    NetworkMode, Observed, Placement, PortBinding, PortProtocol, PortRequest, Rates, Resources, State, Stats, Traffic,
    UnitId, UnitSpec,
};

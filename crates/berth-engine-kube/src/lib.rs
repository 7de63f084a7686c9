//! The engine for Kubernetes: each run of a container is a pod of a cluster.
//!
//! ```text
//! Secret berth-ID      what `create` fixed: the spec, the ports; the number of the last run and how it ended
//! Pod    berth-ID-RUN  a run: restartPolicy Never, for the core starts again by its own policy
//! ```
//! Both carry the labels `app.kubernetes.io/managed-by=berth` and `berth.io/instance`; nothing else is touched. A pod belongs to its
//! Secret (owner reference), so nothing is left where a Secret was deleted by hand.
//!
//! All that is told of containers comes from watches (`cache`): no request per container at rest. A run is ended by a
//! deadline of its pod (`activeDeadlineSeconds`), because then its exit code and its output stay; only what outlives its grace is deleted.
//!
//! What a cluster can't do is refused at `create` (`pods::check`); what this engine is not able to do at all is not among its abilities.

mod cache;
mod engine;
mod errors;
mod exec;
mod logs;
mod nodes;
mod pods;

pub use engine::{KubeEngine, Options};

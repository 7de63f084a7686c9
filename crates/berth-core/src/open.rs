//! The start of the core.

use std::sync::Arc;

use berth_engine::Engine;
use berth_image::Store as Images;
use berth_operations::Domain as _;
use berth_store::Store;

use crate::core::{Core, Paths};
use crate::error::Error;
use crate::fetch::Fetch;
use crate::registries::Registry;
use crate::settings::Settings;

impl Core {
    /// Puts the parts together, makes engine and records agree, and keeps them so in the background.
    ///
    /// # Errors
    /// The records can't be read.
    pub async fn open(
        store: Store,
        engine: Arc<dyn Engine>,
        images: Images,
        fetch: Arc<dyn Fetch>,
        registry: Arc<dyn Registry>,
        paths: Paths,
        settings: Settings,
    ) -> Result<Self, Error> {
        let core = Self::assemble(store, engine, images, fetch, registry, paths, settings)?;
        core.identity().forget_unanswered().await?;
        core.register_hosts().await?;
        core.sweep_volumes().await?;
        crate::reconcile::begin(&core).await?;
        crate::containers::disk_limits::begin(&core);
        crate::distribution::begin(&core);
        core.packages_sweep(0).await?;
        core.follow_members().await?;
        core.begin_registering_hosts();
        core.begin_measuring();
        core.operations().resume(&core).await?;
        Ok(core)
    }
}

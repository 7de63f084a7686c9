//! Images that containers can be made from.

use axum::Json;
use axum::extract::{Request, State};
use berth_core::Core;

use super::auth::authenticate;
use super::error::Error;
use super::wire::{Image, Images};

/// `GET /api/v1/containers/images`: the official ones and the account's own, an entry for each name.
pub(super) async fn list(State(core): State<Core>, request: Request) -> Result<Json<Images>, Error> {
    let (caller, _) = authenticate(&core, request, "image_list").await?;
    let (mut custom_images, mut public_images) = (Vec::new(), Vec::new());
    for image in core.image_search(&caller, "", &std::collections::BTreeMap::new()).await? {
        let of = if image.shared { &mut public_images } else { &mut custom_images };
        // One that was pulled by its digest has no tag to be called by.
        for name in image.names.iter().filter(|name| !name.contains('@')) {
            of.push(Image::of(&core, &image, name));
        }
    }
    public_images.sort_by_key(|image: &Image| std::cmp::Reverse(image.weight));
    Ok(Json(Images { custom_images, public_images }))
}

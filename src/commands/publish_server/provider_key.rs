//! The provider's first API key.

use anyhow::Context as _;

use crate::common::crypto::api_key::{ApiKey, KeyKind};
use crate::common::data_dir::DataDir;
use crate::registry::Registry;

/// Creates an API key for the provider if the registry has none, or if the key in `dir` is to be replaced.
///
/// The key is written to its file before the registry accepts it. In the other order, a crash in between would leave a
/// valid key that no file holds, and the next start would create no other. If several servers with one registry start
/// at the same moment, only one of them creates the key.
///
/// # Errors
/// The key can't be generated, written or stored.
pub(super) async fn ensure_provider_key(
    registry: &Registry,
    dir: &DataDir,
    replace: bool,
) -> anyhow::Result<()> {
    if !replace && !registry.api_keys(None, None, 1).items.is_empty() {
        return Ok(());
    }
    let old = dir.provider_key()?;
    let key = ApiKey::generate(KeyKind::Provider).context("make an API key")?;
    let path = dir.write_provider_key(&key)?;
    if replace {
        registry.replace_provider_key(&key, old).await?;
    } else if !registry.first_provider_key(&key).await? {
        dir.forget_provider_key()?;
        return Ok(());
    }
    tracing::info!(path = %path.display(), "wrote a new API key for the provider; `whk tenant` reads it from there");
    Ok(())
}

//! `whk tenant create`, `list`, `show`, `update` and `delete`.

use std::num::NonZeroU32;

use super::{Connection, NamedTenantArg, TenantArg, confirm};
use crate::api::{DeletedTenant, NewTenant, TenantUpdate, TenantView};
use crate::commands::output::{fields, table};
use crate::exit::UsageError;
use crate::registry::limits::{LimitOverrides, LimitUpdate};

/// Create a tenant
#[derive(Debug, clap::Args)]
pub(super) struct CreateArgs {
    /// Name of the tenant; no other tenant may have it
    name: String,
    #[command(flatten)]
    limits: LimitFlags,
}

/// Change a tenant's name or limits; the rest stays as it is
#[derive(Debug, clap::Args)]
pub(super) struct UpdateArgs {
    #[command(flatten)]
    tenant: NamedTenantArg,
    /// New name
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Remove the tenant's own limits, so that the server's defaults apply
    #[arg(long, conflicts_with_all = ["queued_jobs", "publishes_per_second", "endpoints"])]
    default_limits: bool,
    #[command(flatten)]
    limits: LimitFlags,
}

/// The tenant's own limits.
#[derive(Debug, clap::Args)]
struct LimitFlags {
    /// Maximum number of undelivered jobs of the tenant. Default: the server's --tenant-queued-jobs
    #[arg(long, value_name = "JOBS", value_parser = whole)]
    queued_jobs: Option<NonZeroU32>,
    /// Maximum number of events per second. Default: the server's --tenant-publish-rate
    #[arg(long, value_name = "COUNT", value_parser = whole)]
    publishes_per_second: Option<NonZeroU32>,
    /// Maximum number of endpoints. Default: the server's --tenant-endpoints
    #[arg(long, value_name = "COUNT", value_parser = whole)]
    endpoints: Option<NonZeroU32>,
}

/// Delete a tenant with its keys and endpoints, and drop its queued messages
#[derive(Debug, clap::Args)]
pub(super) struct DeleteArgs {
    #[command(flatten)]
    tenant: NamedTenantArg,
    /// Delete without asking for confirmation
    #[arg(long)]
    yes: bool,
}

impl LimitFlags {
    /// Returns the limits that are given, for a new tenant.
    fn overrides(&self) -> Option<LimitOverrides> {
        let limits = LimitOverrides {
            queued_jobs: self.queued_jobs,
            publishes_per_second: self.publishes_per_second,
            endpoints: self.endpoints,
        };
        (limits != LimitOverrides::default()).then_some(limits)
    }

    /// Returns the limits that are given, for an update.
    fn update(&self) -> Option<LimitUpdate> {
        let update = LimitUpdate {
            queued_jobs: self.queued_jobs.map(Some),
            publishes_per_second: self.publishes_per_second.map(Some),
            endpoints: self.endpoints.map(Some),
        };
        (update != LimitUpdate::default()).then_some(update)
    }
}

fn whole(text: &str) -> Result<NonZeroU32, String> {
    text.parse().map_err(|_| "expected a whole number from 1 to 4294967295".into())
}

pub(super) async fn create(connection: &Connection, args: CreateArgs) -> anyhow::Result<()> {
    let new = NewTenant { name: args.name, limits: args.limits.overrides() };
    let tenant: TenantView = connection.api.post("/tenants", &new).await?;
    connection.print(&as_text(&tenant), &tenant)
}

pub(super) async fn list(connection: &Connection) -> anyhow::Result<()> {
    let tenants: Vec<TenantView> = connection.api.list("/tenants").await?;
    let rows = tenants.iter().map(|tenant| {
        [
            tenant.id.to_string(),
            tenant.name.clone(),
            limits_as_text(tenant.limits),
            tenant.created_at.to_string(),
        ]
    });
    connection.print(&table(["id", "name", "limits of its own", "created"], rows), &tenants)
}

pub(super) async fn show(connection: &Connection, tenant: &TenantArg) -> anyhow::Result<()> {
    let tenant: TenantView = connection.api.get(&tenant.path("")).await?;
    connection.print(&as_text(&tenant), &tenant)
}

pub(super) async fn update(connection: &Connection, args: UpdateArgs) -> anyhow::Result<()> {
    let limits = args.default_limits.then_some(LimitUpdate::TO_DEFAULTS).or(args.limits.update());
    if args.name.is_none() && limits.is_none() {
        return Err(UsageError("nothing to change; pass --name, a limit, or --default-limits".into()).into());
    }
    let update = TenantUpdate { name: args.name, limits };
    let tenant: TenantView = connection.api.patch(&args.tenant.path(""), &update).await?;
    connection.print(&as_text(&tenant), &tenant)
}

pub(super) async fn delete(connection: &Connection, args: DeleteArgs) -> anyhow::Result<()> {
    if !args.yes {
        let tenant = &args.tenant.tenant;
        let question = format!("Delete {tenant} with its keys and endpoints, and drop its queued messages?");
        if !confirm(&question)? {
            anyhow::bail!("nothing was deleted");
        }
    }
    let deleted: DeletedTenant = connection.api.delete(&args.tenant.path("")).await?;
    let text = format!("{} is deleted; {} queued jobs are dropped", deleted.id, deleted.dropped_jobs);
    connection.print(&text, &deleted)
}

fn as_text(tenant: &TenantView) -> String {
    fields([
        ("id", tenant.id.to_string()),
        ("name", tenant.name.clone()),
        ("queued jobs", format!("{} of {}", tenant.usage.queued_jobs, tenant.effective_limits.queued_jobs)),
        ("endpoints", format!("{} of {}", tenant.usage.endpoints, tenant.effective_limits.endpoints)),
        ("publishes/s", format!("at most {}", tenant.effective_limits.publishes_per_second)),
        ("limits of its own", limits_as_text(tenant.limits)),
        ("created", tenant.created_at.to_string()),
    ])
}

fn limits_as_text(limits: LimitOverrides) -> String {
    let limit = |what: &str, limit: Option<NonZeroU32>| limit.map(|limit| format!("{limit} {what}"));
    let own = [
        limit("queued jobs", limits.queued_jobs),
        limit("publishes/s", limits.publishes_per_second),
        limit("endpoints", limits.endpoints),
    ];
    let own: Vec<String> = own.into_iter().flatten().collect();
    if own.is_empty() { "none".into() } else { own.join(", ") }
}

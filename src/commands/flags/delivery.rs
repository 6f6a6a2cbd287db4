//! The flags about deliveries, for every command that delivers.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use ipnet::IpNet;

use super::value::{count, duration};
use crate::common::retry::RetryPolicy;
use crate::deliver::egress::EgressGuard;
use crate::deliver::{DeliverConfig, ExtraRoots};
use crate::exit::UsageError;
use crate::queue::QueueConfig;

/// A lease outlasts an attempt by this: time enough to settle it.
const LEASE_MARGIN: Duration = Duration::from_secs(30);

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Delivery")]
pub(crate) struct DeliveryArgs {
    /// A network that may be called though it isn't public, over http too; repeat it or separate with commas
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    pub(crate) allow_net: Vec<IpNet>,
    /// Certificates (PEM) that are trusted beside the public ones
    #[arg(long, value_name = "FILE")]
    pub(crate) ca_file: Option<PathBuf>,
    /// Time limit of one attempt: connect, headers and body together
    #[arg(long, value_parser = duration, default_value = "30s", value_name = "DURATION")]
    pub(crate) delivery_timeout: Duration,
    /// Attempts at once, over all endpoints
    #[arg(long, value_parser = count, default_value_t = 512, value_name = "COUNT")]
    pub(crate) in_flight: usize,
    /// Attempts at once to one endpoint that does well; at most a fifth of --in-flight
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..), default_value_t = 64, value_name = "COUNT")]
    pub(crate) endpoint_in_flight: u32,
    /// How long a failing job of an ordered endpoint may hold up those behind it before it is dead-lettered
    #[arg(long, value_parser = duration, default_value = "1h", value_name = "DURATION")]
    pub(crate) max_lane_block: Duration,
    /// How long to go on delivering after SIGTERM
    #[arg(long, value_parser = duration, default_value = "30s", value_name = "DURATION")]
    pub(crate) drain_timeout: Duration,
}

impl DeliveryArgs {
    /// How attempts are made.
    pub(crate) fn config(&self) -> anyhow::Result<DeliverConfig> {
        let extra_roots = match &self.ca_file {
            None => ExtraRoots::default(),
            Some(path) => {
                let pem =
                    std::fs::read(path).with_context(|| format!("--ca-file: read {}", path.display()))?;
                ExtraRoots::from_pem(&pem).map_err(|error| UsageError(error.to_string()))?
            }
        };
        Ok(DeliverConfig {
            time_limit: self.delivery_timeout,
            guard: EgressGuard::new(self.allow_net.clone()),
            extra_roots,
            // Endpoints of many tenants may share a host.
            idle_connections: self.in_flight,
        })
    }

    /// What the queue is told of them.
    pub(crate) fn queue_config(&self, ordered: bool, retry: &RetryPolicy) -> QueueConfig {
        QueueConfig {
            ordered,
            max_jobs: usize::MAX,
            max_bytes: usize::MAX,
            in_flight: self.in_flight,
            lane_in_flight: self.endpoint_in_flight,
            lease: self.delivery_timeout.saturating_add(LEASE_MARGIN),
            retry: retry.clone(),
            history: 0,
        }
    }
}

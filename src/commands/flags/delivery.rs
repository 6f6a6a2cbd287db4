//! The flags about deliveries, for the commands that deliver.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use ipnet::IpNet;

use super::value::{count, duration, network};
use crate::common::retry::RetryPolicy;
use crate::deliver::egress::EgressGuard;
use crate::deliver::{DeliverConfig, ExtraRoots};
use crate::exit::UsageError;
use crate::queue::QueueConfig;

/// Time by which a lease outlasts an attempt: enough to settle it.
const LEASE_MARGIN: Duration = Duration::from_secs(30);

/// The flags about deliveries.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Delivery")]
pub(crate) struct DeliveryArgs {
    /// Private network that may be called, also over plain http: 10.0.0.0/8 or 127.0.0.0/8, for example. Repeat the flag or
    /// separate networks with commas. Without it only public addresses are called, over https
    #[arg(long, value_parser = network, value_name = "CIDR", value_delimiter = ',')]
    pub(crate) allow_net: Vec<IpNet>,
    /// File with further root certificates (PEM) to trust, for endpoints whose certificates a private CA signed
    #[arg(long, value_name = "FILE")]
    pub(crate) ca_file: Option<PathBuf>,
    /// Time limit of one attempt: connecting, headers and body together
    #[arg(long, value_parser = duration, default_value = "30s", value_name = "DURATION")]
    pub(crate) delivery_timeout: Duration,
    /// Maximum number of attempts at once, over all endpoints
    #[arg(long, value_parser = count, default_value_t = 512, value_name = "COUNT")]
    pub(crate) in_flight: usize,
    /// Maximum number of attempts at once to one healthy endpoint; never more than a fifth of --in-flight
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..), default_value_t = 64, value_name = "COUNT")]
    pub(crate) endpoint_in_flight: u32,
    /// Time a failing job of an ordered endpoint may block later jobs; then it is dead-lettered and delivery continues with
    /// the next one
    #[arg(long, value_parser = duration, default_value = "1h", value_name = "DURATION")]
    pub(crate) max_lane_block: Duration,
    /// Time to finish running deliveries after SIGTERM
    #[arg(long, value_parser = duration, default_value = "30s", value_name = "DURATION")]
    pub(crate) drain_timeout: Duration,
}

impl DeliveryArgs {
    /// Returns the configuration of attempts.
    ///
    /// # Errors
    /// `--ca-file` can't be read, or holds no certificates.
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
            // As many as attempts, because endpoints of many tenants may share a host.
            idle_connections: self.in_flight,
        })
    }

    /// Returns the queue's configuration, without limits on what is stored.
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

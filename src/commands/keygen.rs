//! Step 1, `whk keygen`: makes a key pair for a tenant.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::commands::output::{self, OutputFormat};
use crate::common::crypto::keys::{Passphrase, PrivateKey};
use crate::common::crypto::signature::Secret;
use crate::common::secret_file::{SECRET_MODE, write_new, write_over};
use crate::exit::UsageError;

const PUBLIC_MODE: u32 = 0o644;

/// Make an RSA key pair: the customer keeps the private key and gives the public key to the provider
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  whk keygen
      write private_key.pem and public_key.pem to this folder
  whk keygen --out-dir keys --signing-secret
      also make a secret that signs and verifies deliveries
  whk keygen --passphrase-file pass.txt
      encrypt the private key (PKCS#8, PBES2)

Give public_key.pem to the provider. Keep private_key.pem secret: anyone who has it can read every event.
Exit status: 0 done, 64 a file exists already or a flag can't be used, 66 a file doesn't exist, 77 the folder can't be written.")]
pub struct Args {
    /// Size of the key; larger keys are slower
    #[arg(long, value_enum, default_value_t, value_name = "BITS")]
    bits: Bits,
    /// Folder to write to; created if it doesn't exist
    #[arg(long, default_value = ".", value_name = "DIR")]
    out_dir: PathBuf,
    /// Overwrite existing files. Events encrypted to an overwritten key can't be read any more
    #[arg(long)]
    force: bool,
    /// Encrypt the private key with a passphrase: the first line of this file
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
    /// Also make signing_secret.txt, which the provider and the customer share
    #[arg(long)]
    signing_secret: bool,
    /// Format of the result
    #[arg(long, value_enum, default_value_t)]
    output: OutputFormat,
}

#[derive(Debug, Clone, Copy, Default, ValueEnum)]
enum Bits {
    #[value(name = "2048")]
    B2048,
    #[value(name = "3072")]
    B3072,
    #[default]
    #[value(name = "4096")]
    B4096,
}

impl Bits {
    fn count(self) -> u32 {
        match self {
            Self::B2048 => 2048,
            Self::B3072 => 3072,
            Self::B4096 => 4096,
        }
    }
}

/// The result: paths of the files, and the key's id and size.
#[derive(Serialize)]
struct GeneratedFiles {
    private_key: PathBuf,
    public_key: PathBuf,
    #[serde(skip_serializing_if = "Option::is_none")]
    signing_secret: Option<PathBuf>,
    key_id: String,
    bits: u32,
}

/// Runs the command.
///
/// # Errors
/// A file exists and `--force` isn't given, a file can't be written, or the passphrase file can't be read.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let made = GeneratedFiles {
        private_key: args.out_dir.join("private_key.pem"),
        public_key: args.out_dir.join("public_key.pem"),
        signing_secret: args.signing_secret.then(|| args.out_dir.join("signing_secret.txt")),
        key_id: String::new(),
        bits: args.bits.count(),
    };
    let passphrase =
        args.passphrase_file.as_deref().map(Passphrase::read).transpose().context("--passphrase-file")?;
    fs::create_dir_all(&args.out_dir)
        .with_context(|| format!("--out-dir: create folder {}", args.out_dir.display()))?;
    if !args.force {
        for path in [&made.private_key, &made.public_key].into_iter().chain(&made.signing_secret) {
            refuse_existing(path)?;
        }
    }

    let spinner = spinner(made.bits);
    let bits = made.bits;
    let key = tokio::task::spawn_blocking(move || PrivateKey::generate(bits)).await?;
    spinner.finish_and_clear();
    let key = key?;
    let write = |path: &Path, mode, text: &str| {
        let write = if args.force { write_over } else { write_new };
        write(path, mode, text).with_context(|| format!("write {}", path.display()))
    };
    write(&made.private_key, SECRET_MODE, &key.to_pem(passphrase.as_ref())?)?;
    write(&made.public_key, PUBLIC_MODE, &key.public().to_pem()?)?;
    if let Some(path) = &made.signing_secret {
        write(path, SECRET_MODE, &Secret::generate()?.reveal())?;
    }

    let made = GeneratedFiles { key_id: key.kid().to_owned(), ..made };
    Ok(output::print(args.output, &as_text(&made), &made)?)
}

fn as_text(made: &GeneratedFiles) -> String {
    let mut rows = vec![
        ("private key", &made.private_key, "keep it secret"),
        ("public key", &made.public_key, "hand it to the provider"),
    ];
    rows.extend(
        made.signing_secret.as_ref().map(|path| ("signing secret", path, "share it with the provider only")),
    );
    let width = rows.iter().map(|(_, path, _)| path.display().to_string().len()).max().unwrap_or_default();
    let mut text = String::new();
    for (name, path, advice) in rows {
        text += &format!("{name:<15} {:<width$}  {advice}\n", path.display().to_string());
    }
    text + &format!("{:<15} {}\n", "key id", made.key_id)
}

fn refuse_existing(path: &Path) -> Result<(), UsageError> {
    if path.symlink_metadata().is_ok() {
        let advice = "pass --force to overwrite it, or choose another --out-dir";
        return Err(UsageError(format!("{} exists; {advice}", path.display())));
    }
    Ok(())
}

/// Returns a spinner. indicatif shows it on a terminal only.
fn spinner(bits: u32) -> ProgressBar {
    let spinner =
        ProgressBar::new_spinner().with_message(format!("looking for two primes of {} bits", bits / 2));
    let style = ProgressStyle::with_template("{spinner} {msg} ({elapsed})")
        .unwrap_or(ProgressStyle::default_spinner());
    spinner.set_style(style);
    spinner.enable_steady_tick(Duration::from_millis(100));
    spinner
}

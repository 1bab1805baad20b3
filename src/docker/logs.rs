//! The last lines that a container wrote.

use bollard::container::LogOutput;
use bollard::query_parameters::LogsOptions;
use futures_util::StreamExt;

use super::{Docker, Error, Life};

/// How many times fewer lines are asked for, if so many are more than an answer may be.
const FEWER: u32 = 8;

impl Docker {
    /// The last lines that a container wrote to its log, in this life or an earlier one, with their time: at most so many
    /// lines, and of those the last `bytes`. Of one that has ended, too.
    ///
    /// # Errors
    /// If the engine does not say; some log drivers cannot be read.
    pub async fn last_lines(&self, life: &Life, lines: u32, bytes: usize) -> Result<Vec<u8>, Error> {
        let mut lines = lines;
        loop {
            let (read, broke_off) = self.tail(life, lines, bytes).await?;
            // They are told from the first to the last, and an answer has a bound: of fewer lines the last ones are read, too.
            match broke_off {
                Some(error) if lines < FEWER && read.is_empty() => return Err(error),
                Some(_) if lines >= FEWER => lines /= FEWER,
                _ => return Ok(read),
            }
        }
    }

    async fn tail(&self, life: &Life, lines: u32, bytes: usize) -> Result<(Vec<u8>, Option<Error>), Error> {
        let options = LogsOptions {
            stdout: true,
            stderr: true,
            timestamps: true,
            tail: lines.to_string(),
            ..LogsOptions::default()
        };
        let (read, error) = self
            .call(self.timeout(), async |docker| {
                let mut told = Box::pin(docker.logs(&life.id, Some(options.clone())));
                let mut read: Vec<u8> = Vec::new();
                while let Some(piece) = told.next().await {
                    match piece {
                        Ok(
                            LogOutput::StdErr { message }
                            | LogOutput::StdOut { message }
                            | LogOutput::StdIn { message }
                            | LogOutput::Console { message },
                        ) => {
                            read.extend_from_slice(&message);
                            // Now and then, not at each line.
                            if read.len() > bytes.saturating_mul(2) {
                                read.drain(..read.len() - bytes);
                            }
                        }
                        Err(error) if read.is_empty() => return Err(error),
                        Err(error) => return Ok((read, Some(error))),
                    }
                }
                Ok((read, None))
            })
            .await
            .map(|(mut read, error)| {
                read.drain(..read.len().saturating_sub(bytes));
                (read, error)
            })?;
        Ok((read, error.map(|error| self.understand(error))))
    }
}

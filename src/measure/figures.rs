//! The distributions of the measured window, as histograms ([`Figures`]) or as text ([`Histograms`]). Pure.
//!
//! Recording, adding, encoding and decoding name each distribution once; a new one is a field, and the compiler asks for the
//! rest.

use serde::{Deserialize, Serialize};

use super::durations::{COARSE_DIGITS, Durations};
use super::encoded::{EncodedHistogram, HistogramError};

/// One `T` for each distribution.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Figures<T = Durations> {
    /// done − due; see `latency_ms`.
    pub latency: T,
    /// done − sent; see `service_time_ms`.
    pub service_time: T,
    /// sent − due, of requests whose worker was free when they were due, or that the generator held up because it stood
    /// still; see `lateness_ms`.
    pub lateness: T,
    /// claimed − due, of all other requests; see `wait_for_connection_ms`.
    pub wait_for_connection: T,
    /// The round trips within the service time, in the order of `phases_ms`. As text they keep two significant digits, so
    /// that the document stays small.
    pub phases: Vec<T>,
}

/// The same as text, for documents and messages.
pub type Histograms = Figures<EncodedHistogram>;

impl<T> Figures<T> {
    /// All but the round trips, with their names in a document.
    fn named(&self) -> [(&'static str, &T); 4] {
        let Self { latency, service_time, lateness, wait_for_connection, phases: _ } = self;
        [
            ("latency", latency),
            ("service_time", service_time),
            ("lateness", lateness),
            ("wait_for_connection", wait_for_connection),
        ]
    }
}

impl Figures {
    /// Empty histograms, of requests with so many round trips.
    pub fn new(phases: usize) -> Self {
        Self { phases: vec![Durations::default(); phases], ..Self::default() }
    }

    /// The same with as many digits as [`Histograms`] have: for sums of what was decoded.
    pub fn of_decoded(phases: usize) -> Self {
        Self { phases: vec![Durations::with_digits(COARSE_DIGITS); phases], ..Self::default() }
    }

    /// Adds another's values.
    pub fn add(&mut self, other: &Self) {
        let Self { latency, service_time, lateness, wait_for_connection, phases } = self;
        let fine = [latency, service_time, lateness, wait_for_connection].into_iter();
        fine.zip(other.named()).for_each(|(mine, (_, theirs))| mine.add(theirs));
        phases.iter_mut().zip(&other.phases).for_each(|(mine, theirs)| mine.add(theirs));
    }

    /// As text; the round trips lose a digit.
    pub fn encode(&self) -> Histograms {
        let [latency, service_time, lateness, wait_for_connection] =
            self.named().map(|(_, durations)| EncodedHistogram::new(durations));
        let phases = self.phases.iter().map(|phase| EncodedHistogram::new(&phase.coarse())).collect();
        Histograms { latency, service_time, lateness, wait_for_connection, phases }
    }
}

impl Histograms {
    /// What was recorded.
    ///
    /// # Errors
    /// One is no histogram of this program: its name, and why.
    pub fn decode(&self) -> Result<Figures, (String, HistogramError)> {
        let [latency, service_time, lateness, wait_for_connection] =
            self.named().map(|(name, encoded)| encoded.decode().map_err(|error| (name.to_owned(), error)));
        let coarse = |(at, encoded): (usize, &EncodedHistogram)| {
            encoded.decode_digits(COARSE_DIGITS).map_err(|error| (format!("phases[{at}]"), error))
        };
        Ok(Figures {
            latency: latency?,
            service_time: service_time?,
            lateness: lateness?,
            wait_for_connection: wait_for_connection?,
            phases: self.phases.iter().enumerate().map(coarse).collect::<Result<_, _>>()?,
        })
    }
}

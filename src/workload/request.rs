//! One request: everything that its four rows contain, as a function of (seed, slot) and, for the ids, of the time.

use std::fmt::Write;

use uuid::Uuid;

use super::Workload;
use super::payload::{Cut, Pool};
use crate::random::SplitMix64;

const FUNCTIONS: [&str; 10] = [
    "function_1",
    "function_2",
    "function_3",
    "function_4",
    "function_5",
    "function_6",
    "function_7",
    "function_8",
    "function_9",
    "function_10",
];
const BUCKETS: [&str; 10] = [
    "rate_limit:function_1",
    "rate_limit:function_2",
    "rate_limit:function_3",
    "rate_limit:function_4",
    "rate_limit:function_5",
    "rate_limit:function_6",
    "rate_limit:function_7",
    "rate_limit:function_8",
    "rate_limit:function_9",
    "rate_limit:function_10",
];
const VARIANTS: [&str; 5] = ["variant_1", "variant_2", "variant_3", "variant_4", "variant_5"];
const MODELS: [&str; 6] =
    ["gpt-4o", "gpt-4o-mini", "gpt-4-turbo", "claude-3-5-sonnet", "claude-3-opus", "claude-3-haiku"];
const PROVIDERS: [&str; 3] = ["openai", "anthropic", "azure"];
const ENVIRONMENTS: [&str; 3] = ["production", "staging", "development"];

/// `model_inference.input_messages`: small and constant, as in the tool that this one replaces.
pub const INPUT_MESSAGES: &str = r#"[{"role":"user","content":"test message"}]"#;
/// `model_inference.output`: likewise.
pub const MODEL_OUTPUT: &str = r#"{"content":"model response content"}"#;

/// Makes the requests of one run.
#[derive(Clone, Debug)]
pub struct RequestMaker {
    workload: Workload,
    pool: Pool,
    /// Drawn once a process, so that two runs with one seed on one database never make the same id.
    nonce: u64,
}

/// The contents of the rows of one request. Reused from slot to slot, so that nothing is allocated while the test runs.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// `chat_inference.id`, and `model_inference.inference_id`
    pub inference_id: Uuid,
    /// `episode_id` in `chat_inference` and `variant_by_episode`
    pub episode_id: Uuid,
    /// `model_inference.id`
    pub model_inference_id: Uuid,
    /// `function_1` … `function_10`
    pub function_name: &'static str,
    /// `rate_limit:function_N` of the same function
    pub bucket_key: &'static str,
    /// `variant_1` … `variant_5`
    pub variant_name: &'static str,
    /// Where `chat_inference.input` is cut from the pool.
    pub input: Cut,
    /// Where `chat_inference.output` is cut.
    pub output: Cut,
    /// Where `model_inference.raw_request` is cut.
    pub raw_request: Cut,
    /// Where `model_inference.raw_response` is cut.
    pub raw_response: Cut,
    /// `{"temperature":…,"max_tokens":…}`
    pub inference_params: String,
    /// `{"env":…,"user_id":…,"request_id":…}`
    pub tags: String,
    /// Milliseconds, 100 … 3000
    pub processing_time_ms: i32,
    /// One of six
    pub model_name: &'static str,
    /// One of three
    pub model_provider_name: &'static str,
    /// 100 … 8000
    pub input_tokens: i32,
    /// 50 … 4000
    pub output_tokens: i32,
    /// Milliseconds, 200 … 5000
    pub response_time_ms: i32,
}

impl RequestMaker {
    /// A maker for one run; `nonce` must differ between processes.
    pub fn new(workload: Workload, pool: Pool, nonce: u64) -> Self {
        Self { workload, pool, nonce }
    }

    /// What the requests write.
    pub fn workload(&self) -> &Workload {
        &self.workload
    }

    /// Differs between processes.
    pub fn nonce(&self) -> u64 {
        self.nonce
    }

    /// Where the documents are cut from.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// What the ids of all rows of this process have in common: bytes [`TAG_BYTES`] of each.
    pub fn tag(&self) -> [u8; 4] {
        ((self.nonce >> 32) as u32).to_be_bytes()
    }

    /// [`Request::inference_id`] of the request that was made for `slot` with `unix_ms`.
    pub fn inference_id(&self, slot: u64, unix_ms: u64) -> Uuid {
        row_id(unix_ms, self.tag(), &mut self.ids(slot))
    }

    fn ids(&self, slot: u64) -> SplitMix64 {
        SplitMix64::for_slot(self.nonce ^ self.workload.seed, slot)
    }

    /// Fills `request` with the contents for `slot`; the ids carry `unix_ms`, milliseconds since 1970.
    pub fn fill(&self, request: &mut Request, slot: u64, unix_ms: u64) {
        let random = &mut SplitMix64::for_slot(self.workload.seed, slot);
        let function = random.below(10) as usize;
        request.function_name = FUNCTIONS[function];
        request.bucket_key = BUCKETS[function];
        request.variant_name = pick(&VARIANTS, random);
        let sizes = &self.workload.sizes;
        request.input = self.pool.cut(sizes.input, random);
        request.output = self.pool.cut(sizes.output, random);
        request.raw_request = self.pool.cut(sizes.raw_request, random);
        request.raw_response = self.pool.cut(sizes.raw_response, random);
        request.processing_time_ms = random.between(100, 3000);
        request.model_name = pick(&MODELS, random);
        request.model_provider_name = pick(&PROVIDERS, random);
        request.input_tokens = random.between(100, 8000);
        request.output_tokens = random.between(50, 4000);
        request.response_time_ms = random.between(200, 5000);
        let (temperature, max_tokens) = (random.between(0, 100), random.between(100, 4000));
        let env = pick(&ENVIRONMENTS, random);

        let ids = &mut self.ids(slot);
        request.inference_id = row_id(unix_ms, self.tag(), ids);
        request.episode_id = row_id(unix_ms, self.tag(), ids);
        request.model_inference_id = row_id(unix_ms, self.tag(), ids);
        write_json(
            &mut request.inference_params,
            format_args!(
                r#"{{"temperature":{}.{:02},"max_tokens":{max_tokens}}}"#,
                temperature / 100,
                temperature % 100
            ),
        );
        let (user_id, request_id) = (uuid_v7(unix_ms, ids), uuid_v7(unix_ms, ids));
        write_json(
            &mut request.tags,
            format_args!(r#"{{"env":"{env}","user_id":"{user_id}","request_id":"{request_id}"}}"#),
        );
    }
}

fn pick<T: Copy>(from: &[T], random: &mut SplitMix64) -> T {
    from[random.below(from.len() as u64) as usize]
}

/// Writing to a `String` cannot fail.
fn write_json(into: &mut String, json: std::fmt::Arguments<'_>) {
    into.clear();
    let _ = into.write_fmt(json);
}

/// Where the tag of a process lies in the ids of its rows.
pub const TAG_BYTES: std::ops::Range<usize> = 9..13;

/// A UUID of version 7 (RFC 9562, section 5.7): 48 bits of time, 74 of chance.
fn uuid_v7(unix_ms: u64, random: &mut SplitMix64) -> Uuid {
    uuid_of(unix_ms, chance(random))
}

/// The same with 32 of the bits of chance in common with all rows of the process, by which they can be counted.
fn row_id(unix_ms: u64, tag: [u8; 4], random: &mut SplitMix64) -> Uuid {
    let mut bits = chance(random);
    // The time and the version come before.
    bits[TAG_BYTES.start - 6..TAG_BYTES.end - 6].copy_from_slice(&tag);
    uuid_of(unix_ms, bits)
}

fn chance(random: &mut SplitMix64) -> [u8; 10] {
    let mut bits = [0u8; 10];
    bits[..8].copy_from_slice(&random.next_u64().to_be_bytes());
    bits[8..].copy_from_slice(&random.next_u64().to_be_bytes()[..2]);
    bits
}

fn uuid_of(unix_ms: u64, bits: [u8; 10]) -> Uuid {
    uuid::Builder::from_unix_timestamp_millis(unix_ms, &bits).into_uuid()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::payload::Sizes;

    fn maker(seed: u64, nonce: u64) -> RequestMaker {
        let sizes = Sizes { input: 1536, output: 10_240, raw_request: 1024, raw_response: 10_240 };
        let workload = Workload { sizes, rate_limiting: true, experimentation: true, server_side_data: false, seed };
        RequestMaker::new(workload, Pool::generate(seed, &sizes), nonce)
    }

    fn request(maker: &RequestMaker, slot: u64) -> Request {
        let mut request = Request::default();
        maker.fill(&mut request, slot, 1_700_000_000_123);
        request
    }

    #[test]
    fn contents_depend_on_seed_and_slot_alone_and_ids_also_on_the_process() {
        let (one, other_process, other_seed) =
            (request(&maker(1, 10), 7), request(&maker(1, 11), 7), request(&maker(2, 10), 7));
        assert_eq!((one.output, one.raw_response), (other_process.output, other_process.raw_response));
        assert_eq!(one.inference_params, other_process.inference_params);
        assert_ne!(one.inference_id, other_process.inference_id);
        assert_ne!(one.output, other_seed.output);
        assert_ne!(one.output, request(&maker(1, 10), 8).output);
    }

    #[test]
    fn ids_are_version_7_with_the_given_time_and_all_different() {
        let maker = maker(1, 10);
        let mut seen = std::collections::HashSet::new();
        for slot in 0..1_000 {
            let request = request(&maker, slot);
            for id in [request.inference_id, request.episode_id, request.model_inference_id] {
                assert_eq!(id.get_version_num(), 7);
                assert_eq!(id.as_u128() >> 80, 1_700_000_000_123);
                assert!(seen.insert(id));
            }
        }
    }

    #[test]
    fn the_ids_of_a_process_can_be_told_and_made_again() {
        let (one, other) = (maker(1, 0x0123_4567_89AB_CDEF), maker(1, 0xFEDC_BA98_7654_3210));
        assert_eq!(one.tag(), [0x01, 0x23, 0x45, 0x67]);
        for slot in 0..100 {
            let made = request(&one, slot);
            for id in [made.inference_id, made.episode_id, made.model_inference_id] {
                assert_eq!(id.as_bytes()[TAG_BYTES], one.tag());
            }
            assert_eq!(one.inference_id(slot, 1_700_000_000_123), made.inference_id);
            assert_ne!(request(&other, slot).inference_id.as_bytes()[TAG_BYTES], one.tag());
        }
    }

    #[test]
    fn small_json_is_valid() {
        let maker = maker(3, 0);
        for slot in 0..200 {
            let request = request(&maker, slot);
            let params: serde_json::Value = serde_json::from_str(&request.inference_params).unwrap();
            assert!((0.0..=1.0).contains(&params["temperature"].as_f64().unwrap()));
            let tags: serde_json::Value = serde_json::from_str(&request.tags).unwrap();
            assert_eq!(tags.as_object().unwrap().len(), 3);
        }
        for json in [INPUT_MESSAGES, MODEL_OUTPUT] {
            serde_json::from_str::<serde_json::Value>(json).unwrap();
        }
    }

    #[test]
    fn all_functions_and_variants_are_used() {
        let maker = maker(4, 0);
        let requests: Vec<Request> = (0..500).map(|slot| request(&maker, slot)).collect();
        let distinct =
            |of: fn(&Request) -> &'static str| requests.iter().map(of).collect::<std::collections::BTreeSet<_>>().len();
        assert_eq!(distinct(|r| r.function_name), 10);
        assert_eq!(distinct(|r| r.variant_name), 5);
        assert_eq!(distinct(|r| r.model_name), 6);
    }
}

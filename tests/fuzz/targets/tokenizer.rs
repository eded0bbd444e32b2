//! Any lists of tokens and merges, and any text: refused, or text comes back from its tokens, whichever way it was encoded.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tinyllm::data::Tokenizer;
use tinyllm::data::tokenizer::StreamDecoder;
use tinyllm_fuzz::gguf_model::byte_chars;
use tinyllm_fuzz::{Bytes, seeds};

fuzz_target!(
    init: seeds(|| {
        let lists = "th\nthe\nĠthe\n4\0t h\nth e\nĠ the\nĠ 4\0the cat the 44 Ax: 47 52";
        vec![[&[1, 0, 1], lists.as_bytes()].concat(), [&[0, 3, 2], lists.as_bytes()].concat(), "\u{1}\0\0ab\0a b\0abab\u{3042} ab".into()]
    }),
    |input: &[u8]| {
        let mut input = Bytes(input);
        // Mostly with the 256 tokens of bytes, without which every list is refused.
        let whole = input.byte() % 8 != 0;
        let end = u32::from_le_bytes([input.byte(), input.byte(), 0, 0]);
        let rest = String::from_utf8_lossy(input.0);
        let mut parts = rest.splitn(3, '\0');
        let mut lists = || parts.next().unwrap_or_default().split('\n').map(String::from).collect::<Vec<_>>();
        let (more, merges) = (lists(), lists());
        let text = parts.next().unwrap_or_default();
        let mut tokens = if whole { byte_chars() } else { vec![] };
        tokens.extend(more);
        tokens.push("<|endoftext|>".into());
        let end = if end == 0 { tokens.len() as u32 - 1 } else { end };
        let tokenizer = match Tokenizer::from_tokens_and_merges(&tokens, &merges, end) {
            Ok(tokenizer) => tokenizer,
            Err(error) => return assert!(!error.to_string().is_empty()),
        };
        let ids = tokenizer.encode(text);
        assert_eq!(tokenizer.decode(&ids), text);
        assert!(!ids.contains(&end));
        let mut encoder = tokenizer.encoder();
        assert_eq!(encoder.encode(text), ids);
        assert_eq!(encoder.encode(text), ids, "remembered");
        let (mut out, mut decoder) = (String::new(), StreamDecoder::new());
        ids.iter().for_each(|&id| decoder.push(tokenizer.token_bytes(id), &mut out));
        decoder.finish(&mut out);
        assert_eq!(out, text);
    }
);

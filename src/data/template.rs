//! The one form in which a model is asked, and answers.
//!
//! Prompt and answer are turned into tokens apart, in training and in running alike, so that no token can straddle
//! the border between them; the end token closes the answer and is learned.

use super::tokenizer::Tokenizer;
use serde::{Deserialize, Serialize};

/// The text around an instruction and its input; Alpaca's form by default.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Template {
    /// The prompt, with `{instruction}` and `{input}` where they go.
    pub prompt: String,
    /// The prompt where there is no input.
    pub prompt_without_input: String,
}

impl Default for Template {
    fn default() -> Self {
        Self {
            prompt: "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n".into(),
            prompt_without_input: "### Instruction:\n{instruction}\n\n### Response:\n".into(),
        }
    }
}

/// The tokens of a question and its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tokens {
    /// The question.
    pub prompt: Vec<u32>,
    /// The answer with the end token.
    pub answer: Vec<u32>,
}

impl Tokens {
    /// Positions they take in a training row: the last token is only ever a target.
    #[must_use]
    pub const fn positions(&self) -> usize {
        self.prompt.len() + self.answer.len() - 1
    }
}

impl Template {
    /// The text of a question.
    #[must_use]
    pub fn prompt(&self, instruction: &str, input: &str) -> String {
        let form = if input.is_empty() { &self.prompt_without_input } else { &self.prompt };
        let mut out = String::with_capacity(form.len() + instruction.len() + input.len());
        let mut rest = form.as_str();
        // One pass, so that braces in the instruction or the input stay what they are.
        while let Some(at) = rest.find('{') {
            out.push_str(&rest[..at]);
            rest = &rest[at..];
            let (name, value) = if rest.starts_with("{instruction}") {
                ("{instruction}", instruction)
            } else if rest.starts_with("{input}") {
                ("{input}", input)
            } else {
                ("{", "{")
            };
            out.push_str(value);
            rest = &rest[name.len()..];
        }
        out.push_str(rest);
        out
    }

    /// The tokens of a question and its answer.
    #[must_use]
    pub fn tokens(&self, tokenizer: &Tokenizer, instruction: &str, input: &str, output: &str) -> Tokens {
        let prompt = tokenizer.encode(&self.prompt(instruction, input));
        let mut answer = tokenizer.encode(output);
        answer.push(tokenizer.end_token());
        Tokens { prompt, answer }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_is_alpacas() {
        let t = Template::default();
        assert_eq!(
            t.prompt("Do {input}.", "{instruction} 1 2"),
            "### Instruction:\nDo {input}.\n\n### Input:\n{instruction} 1 2\n\n### Response:\n"
        );
        assert_eq!(t.prompt("Do.", ""), "### Instruction:\nDo.\n\n### Response:\n");
    }

    #[test]
    fn prompt_and_answer_are_apart_and_the_end_closes() {
        let tokens = Template::default().tokens(Tokenizer::gpt2(), "Which?", "Ax: 1 2", "Tap");
        assert_eq!(tokens.answer, [*Tokenizer::gpt2().encode("Tap").first().unwrap(), 50_256]);
        assert_eq!(tokens.positions(), tokens.prompt.len() + 1);
    }
}

//! Labels are scored, not hoped for: what a session thinks of each label of a trie.

use super::{Session, SessionError};
use crate::data::labels::Trie;

/// The natural log-probability of each label after a prompt, by the definition of [`Trie::log_probs`].
///
/// Only branch points are asked for, and of the head only the rows of their children. The session goes from one to the
/// next along the trie, reading what it does not hold yet; what it held of the prompt before (a constant instruction)
/// is used. The session is left somewhere after the prompt.
pub fn label_log_probs(session: &mut Session<'_>, trie: &Trie, prompt: &[u32]) -> Result<Vec<f64>, SessionError> {
    let mut path = prompt.to_vec();
    trie.log_probs(|node| {
        path.truncate(prompt.len());
        path.extend_from_slice(&node.prefix);
        session.feed_from(&path)?;
        let ids: Vec<u32> = node.children.iter().map(|c| c.0).collect();
        let mut logits = vec![0.0; ids.len()];
        session.logits_of(&mut logits, &ids);
        Ok(logits)
    })
}

/// The `n` likeliest tokens one after another, fewer where the model ends the text or its context is full: for the
/// paper's own measure, which looks for the label among the first tokens generated.
pub fn continue_greedily(session: &mut Session<'_>, prompt: &[u32], n: usize) -> Result<Vec<u32>, SessionError> {
    let end = session.model().tokenizer.end_token();
    session.feed_from(prompt)?;
    let mut made = vec![];
    while made.len() < n {
        let token = super::most_likely(session.logits());
        if token == end {
            break;
        }
        made.push(token);
        if made.len() == n || session.tokens().len() == session.room() {
            break;
        }
        session.feed(&[token])?;
    }
    Ok(made)
}

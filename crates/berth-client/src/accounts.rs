//! Accounts and tokens.

use berth_api::wire::{Account, AccountChange, AccountCreate, List, Token, TokenCreate};
use reqwest::Method;

use crate::{Client, Result, segment};

impl Client {
    /// The account's tokens.
    pub async fn tokens(&self, all: bool) -> Result<Vec<Token>> {
        self.get::<List<Token>>("/v1/tokens", &[("all", all.to_string())]).await.map(|list| list.items)
    }

    /// Makes a token.
    pub async fn token_create(&self, new: &TokenCreate) -> Result<Token> {
        self.post("/v1/tokens", &[], new).await
    }

    /// All accounts with their rights.
    pub async fn accounts(&self) -> Result<Vec<Account>> {
        self.get::<List<Account>>("/v1/accounts", &[]).await.map(|list| list.items)
    }

    /// One account, with what it has.
    pub async fn account(&self, name: &str) -> Result<Account> {
        self.get(&format!("/v1/accounts/{}", segment(name)), &[]).await
    }

    /// Makes an account.
    pub async fn account_create(&self, new: &AccountCreate) -> Result<Account> {
        self.post("/v1/accounts", &[], new).await
    }

    /// Removes an account that has nothing any more.
    pub async fn account_remove(&self, name: &str) -> Result<()> {
        self.send(self.request(Method::DELETE, &format!("/v1/accounts/{}", segment(name)), &[])).await.map(drop)
    }

    /// Changes an account's rights and quotas.
    pub async fn account_change(&self, name: &str, change: &AccountChange) -> Result<Account> {
        self.json(self.request(Method::PATCH, &format!("/v1/accounts/{}", segment(name)), &[]).json(change)).await
    }

    /// Revokes a token.
    pub async fn token_revoke(&self, number: i64) -> Result<()> {
        self.send(self.request(Method::DELETE, &format!("/v1/tokens/{number}"), &[])).await.map(drop)
    }
}

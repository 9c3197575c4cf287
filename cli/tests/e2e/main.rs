//! The real daemon in its own process, as applications, operators and
//! accidents meet it.




mod kill;
mod picture;


mod support;


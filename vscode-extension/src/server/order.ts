/** Does one thing after the other, in the order they were asked for; one that fails stops none. */
export class InOrder {
  private last: Promise<unknown> = Promise.resolve();

  do<T>(work: () => Promise<T>): Promise<T> {
    const done = this.last.then(work);
    this.last = done.catch(() => undefined);
    return done;
  }

  /** When all that was asked for until now is done. */
  async settled(): Promise<void> {
    await this.last;
  }
}

// How long a reader has looked at this page, in seconds; a page in a tab behind others is not looked at.

export class Stopwatch {
  constructor() {
    this.restart();
    document.addEventListener('visibilitychange', () => {
      this._past = this.milliseconds;
      this._since = document.hidden ? null : performance.now();
    });
  }

  restart() {
    this._past = 0;
    this._since = document.hidden ? null : performance.now();
  }

  get milliseconds() {
    return this._past + (this._since === null ? 0 : performance.now() - this._since);
  }

  get seconds() {
    return Math.round(this.milliseconds) / 1000;
  }
}

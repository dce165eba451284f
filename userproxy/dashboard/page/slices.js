// Work in slices: whoever clicks or types is answered between them.

const SLICE_MILLISECONDS = 8;

export class Slices {
  constructor() {
    this.began = performance.now();
  }

  /** To be awaited between two pieces of work: lets others go on if it is time. */
  async pause() {
    if (performance.now() - this.began < SLICE_MILLISECONDS) return;
    await new Promise((resolve) => setTimeout(resolve));
    this.began = performance.now();
  }
}
